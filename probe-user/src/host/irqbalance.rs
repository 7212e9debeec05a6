//! irqbalance, asked over its socket.
//!
//! It serves one connection after another between its scans, and answers root only.

use super::HostRoot;
use crate::model::Pid;
use crate::model::owners::{IrqbalanceSetup, parse_irqbalance_setup};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long it may take to answer: while it scans it answers nobody.
const PATIENCE: Duration = Duration::from_secs(3);

/// No answer comes near this size: an interrupt takes some 40 bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Its socket (`SOCKET_TMPFS`, `SOCKET_PATH` in irqbalance.h).
#[must_use]
pub fn irqbalance_socket(root: &HostRoot, pid: Pid) -> PathBuf {
    root.run.join(format!("irqbalance/irqbalance{pid}.sock"))
}

/// Sends it a message, and returns what it answers, which is nothing where it was told something.
///
/// # Errors
/// When it cannot be reached, or does not answer in time.
pub fn tell_irqbalance(root: &HostRoot, pid: Pid, message: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(irqbalance_socket(root, pid))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(message.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What it leaves alone.
///
/// # Errors
/// When it cannot be asked, or answers something else.
pub fn ask_irqbalance(root: &HostRoot, pid: Pid) -> io::Result<IrqbalanceSetup> {
    let answer = tell_irqbalance(root, pid, "setup")?;
    parse_irqbalance_setup(&answer).ok_or_else(|| {
        // To others than root it closes the connection without a word.
        let what = if answer.is_empty() {
            "it gives no answer (it answers root only)"
        } else {
            "it gives an answer that is not understood"
        };
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};

    /// An irqbalance for tests, which keeps a ban list. It ends with the process.
    pub(crate) fn serve(root: &HostRoot, pid: Pid, bans: &[u32]) -> Arc<Mutex<Vec<u32>>> {
        let path = irqbalance_socket(root, pid);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        let list = Arc::new(Mutex::new(bans.to_vec()));
        let kept = Arc::clone(&list);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut message = vec![0; 16384];
                let len = stream.read(&mut message).unwrap();
                let message = String::from_utf8(message[..len].to_vec()).unwrap();
                let mut kept = kept.lock().unwrap();
                if message == "setup" {
                    let irqs: String =
                        kept.iter().map(|irq| format!("IRQ {irq} LOAD 0 DIFF 0 CLASS 0 ")).collect();
                    write!(stream, "SLEEP 10 {irqs}BANNED 00000000").unwrap();
                } else if let Some(list) = message.strip_prefix("settings ban irqs ") {
                    *kept = list.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
                }
            }
        });
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Tree;

    #[test]
    fn it_is_asked_and_told() {
        let tree = Tree::new();
        let (root, pid) = (tree.root(), Pid(70));
        assert_eq!(ask_irqbalance(&root, pid).unwrap_err().kind(), io::ErrorKind::NotFound);
        let kept = testing::serve(&root, pid, &[4]);
        let numbers = || -> Vec<u32> {
            ask_irqbalance(&root, pid).unwrap().bans.into_iter().map(|irq| irq.0).collect()
        };
        assert_eq!(numbers(), [4]);
        assert_eq!(tell_irqbalance(&root, pid, "settings ban irqs 4 30").unwrap(), "");
        assert_eq!((numbers(), kept.lock().unwrap().clone()), (vec![4, 30], vec![4, 30]));
        assert_eq!(tell_irqbalance(&root, pid, "what").unwrap(), "");
    }
}
