//! Whether this kernel lets programs be attached to its functions: that shows in no file.

use super::loader::{LoadError, Loaded, Sizes, attach_hook};
use crate::host::HostRoot;
use crate::probes::PROBES;

impl Loaded {
    /// Tries the functions that probes hook, and says for each why it cannot be. They are detached again at
    /// once.
    ///
    /// # Errors
    /// [`LoadError`] when nothing can work here.
    pub fn try_functions(root: &HostRoot) -> Result<Vec<(&'static str, Option<String>)>, LoadError> {
        let sizes = Sizes { vcpus: 1, slots: 1, deliveries: 1, exits: 1, noise: 1, devices: 1 };
        let mut loaded = Self::detached(root, sizes)?;
        let functions = PROBES.iter().flat_map(|probe| probe.hooks).filter(|hook| hook.is_return());
        Ok(functions
            .map(|hook| (hook.name(), attach_hook(&mut loaded.ebpf, hook, &loaded.facts).err()))
            .collect())
    }
}
