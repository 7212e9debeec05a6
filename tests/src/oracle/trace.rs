//! Lines of a tracefs `trace` file.

use anyhow::{Context, Result, bail};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Thread that was current.
    pub tid: u32,
    /// CPU.
    pub cpu: u32,
    /// Time (ns, microsecond resolution).
    pub ns: u64,
    /// Event name.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// All events, in the file's order. A note of lost events is an error: nothing could be proven with it.
///
/// # Errors
/// The first line that cannot be read, or that tells of loss.
pub fn parse(text: &str) -> Result<Vec<Event<'_>>> {
    let mut events = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        if line.contains("LOST") && line.contains("EVENTS") {
            bail!("line {}: the capture lost events: {line}", number + 1);
        }
        events.push(event(line).with_context(|| format!("line {}: not an event: {line}", number + 1))?);
    }
    Ok(events)
}

/// `  CPU 0/KVM-221     [000] d.h1.    37.023767: kvm_apic_accept_irq: apicid 0 vec 38 (Fixed|edge)`
fn event(line: &str) -> Option<Event<'_>> {
    let open = line.find(" [")?;
    let (task, rest) = line.split_at(open);
    let tid = task.trim_end().rsplit('-').next()?.parse().ok()?;
    let rest = rest.strip_prefix(" [")?;
    let (cpu, rest) = rest.split_once(']')?;
    let mut parts = rest.trim_start().splitn(2, ' ');
    let _flags = parts.next()?;
    let (time, rest) = parts.next()?.trim_start().split_once(": ")?;
    // A line of the function tracer is `svm_handle_exit <-vcpu_enter_guest`.
    let (name, text) = match rest.split_once(" <-") {
        Some((function, caller)) if !function.contains(':') => (function, caller),
        _ => rest.split_once(':')?,
    };
    Some(Event { tid, cpu: cpu.parse().ok()?, ns: nanoseconds(time)?, name, text: text.trim_start() })
}

fn nanoseconds(seconds: &str) -> Option<u64> {
    let (whole, fraction) = seconds.split_once('.')?;
    let scale = 10u64.checked_pow(9u32.checked_sub(u32::try_from(fraction.len()).ok()?)?)?;
    Some(whole.parse::<u64>().ok()? * 1_000_000_000 + fraction.parse::<u64>().ok()? * scale)
}

impl<'a> Event<'a> {
    /// The word after `key` and a space, comma stripped: `word("vec")` of `apicid 0 vec 38 (..)` is `38`.
    #[must_use]
    pub fn word(&self, key: &str) -> Option<&'a str> {
        let mut words = self.text.split_whitespace();
        words.find(|w| *w == key)?;
        words.next().map(|w| w.trim_end_matches(','))
    }

    /// The value of `key=value`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&'a str> {
        self.text.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_kernels() {
        let text = "# tracer: nop\n\
             \x20      CPU 0/KVM-221     [000] d.h1.    37.023767: kvm_apic_accept_irq: apicid 0 vec 38 (Fixed|edge)\n\
             \x20         <idle>-0       [001] d..2.    37.023597: sched_switch: prev_pid=0 ==> next_comm=CPU 0/KVM next_pid=221 next_prio=120\n\
             \x20 CPU 0/KVM-77       [003] .....   100.000000: svm_handle_exit <-vcpu_enter_guest\n\
             \x20 vhost-12-1-77       [003] .....   100.000001: kvm_entry: vcpu 3, rip 0xff\n";
        let events = parse(text).unwrap();
        assert_eq!((events[0].tid, events[0].cpu, events[0].ns), (221, 0, 37_023_767_000));
        assert_eq!((events[0].name, events[0].word("vec")), ("kvm_apic_accept_irq", Some("38")));
        assert_eq!(events[1].value("next_pid"), Some("221"));
        assert_eq!((events[2].name, events[2].text), ("svm_handle_exit", "vcpu_enter_guest"));
        assert_eq!((events[3].tid, events[3].word("vcpu")), (77, Some("3")));
    }

    #[test]
    fn loss_is_an_error() {
        assert!(parse("CPU:1 [LOST 17 EVENTS]\n").is_err());
    }
}
