//! The ban list of irqbalance: told as a whole, asked for as a whole.

use super::super::host::{Observed, Refusal, Seen, TargetError};
use super::read;
use crate::host::{HostRoot, ask_irqbalance, irqbalance_socket, parse_stat, tell_irqbalance};
use crate::model::owners::{bans_of, bans_value};
use crate::model::{IrqNumber, Pid, Value};
use rustix::io::Errno;
use std::io;

/// Longest message it takes (irqbalance.c, `sock_handle()`: a buffer of 16384 bytes that must not be full).
const MAX_MESSAGE: usize = 16383;

pub(super) fn observe(root: &HostRoot, pid: Pid, start_time: u64) -> Result<Seen, TargetError> {
    let path = root.proc.join(pid.to_string()).join("stat");
    let Some(stat) = read(&path)? else { return Ok(Seen::Gone) };
    match parse_stat(&stat) {
        Ok(stat) if stat.start_time == start_time => {}
        Ok(stat) => return Ok(Seen::Replaced(stat.comm)),
        Err(_) => return Ok(Seen::Gone),
    }
    match ask_irqbalance(root, pid) {
        Ok(setup) => {
            Ok(Seen::Here(Observed { name: String::new(), value: bans_value(&setup.bans), effective: None }))
        }
        // It ended between the two looks.
        Err(error) if has_ended(&error) && read(&path)?.is_none() => Ok(Seen::Gone),
        Err(source) => Err(TargetError::Read { path: irqbalance_socket(root, pid), source }),
    }
}

pub(super) fn write(root: &HostRoot, pid: Pid, value: &Value) -> Result<(), TargetError> {
    let refused =
        |refusal| TargetError::Refused { call: format!("telling irqbalance to ban {value}"), refusal };
    let bans = bans_of(value).ok_or_else(|| refused(Refusal::Invalid))?;
    let words: Vec<String> = bans.iter().map(|IrqNumber(number)| number.to_string()).collect();
    let list = if words.is_empty() { "NONE".to_owned() } else { words.join(" ") };
    let message = format!("settings ban irqs {list}");
    if message.len() > MAX_MESSAGE {
        let what = format!("{} interrupts are more than one message holds", bans.len());
        return Err(refused(Refusal::Other(io::Error::new(io::ErrorKind::InvalidInput, what))));
    }
    match tell_irqbalance(root, pid, &message) {
        Ok(_) => Ok(()),
        Err(error) if has_ended(&error) => Err(refused(Refusal::Gone)),
        Err(error) => Err(refused(Refusal::Other(error))),
    }
}

fn has_ended(error: &io::Error) -> bool {
    let ended = [Errno::NOENT, Errno::CONNREFUSED, Errno::CONNRESET, Errno::PIPE];
    ended.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::super::LiveHost;
    use super::*;
    use crate::apply::Host as _;
    use crate::host::fixture::Tree;
    use crate::host::irqbalance_testing::serve;
    use crate::model::Knob;
    use crate::plan::Target;

    #[test]
    fn the_list_is_extended_and_put_back() {
        let tree = Tree::new();
        let stat = |start: u32| format!("70 (irqbalance) S {} {start} 0 0\n", vec!["0"; 18].join(" "));
        let target = Target::Knob(Knob::IrqbalanceBans { pid: Pid(70), start_time: 4711 });
        let host = LiveHost::new(tree.root());
        assert_eq!(host.observe(&target).unwrap(), Seen::Gone);
        tree.file("proc/70/stat", &stat(4711));
        // It runs and has no socket.
        assert!(matches!(host.observe(&target), Err(TargetError::Read { .. })));
        let error = host.write(&target, &Value::text("30")).unwrap_err();
        assert!(matches!(error.refusal(), Some(Refusal::Gone)), "{error}");

        let list = serve(&tree.root(), Pid(70), &[4]);
        let seen = |host: &LiveHost| match host.observe(&target).unwrap() {
            Seen::Here(observed) => observed.value.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(seen(&host), "4");
        for (value, expected) in [("4 30 31", &[4, 30, 31][..]), ("4", &[4]), ("none", &[])] {
            host.write(&target, &Value::text(value)).unwrap();
            assert_eq!(seen(&host), value);
            assert_eq!(list.lock().unwrap().clone(), expected);
        }
        let long = (10_000..14_000).map(|n: u32| n.to_string()).collect::<Vec<_>>().join(" ");
        let error = host.write(&target, &Value::text(&long)).unwrap_err().to_string();
        assert!(error.ends_with("4000 interrupts are more than one message holds"), "{error}");

        tree.file("proc/70/stat", &stat(5000));
        assert_eq!(host.observe(&target).unwrap(), Seen::Replaced("irqbalance".to_owned()));
    }
}
