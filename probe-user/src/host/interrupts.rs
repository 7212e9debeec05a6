//! The table `/proc/interrupts`: numbered interrupts, their chips, handlers and counts.
//!
//! Text in, rows out; opens nothing. Layout: `show_interrupts()` in kernel/irq/proc.c.

use super::Malformed;
use crate::model::{IrqNumber, PciAddress};

/// One numbered interrupt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptRow {
    /// Linux number.
    pub number: IrqNumber,
    /// Times it has fired, all CPUs together.
    pub count: u64,
    /// Chip name; `IR-` at its start means that interrupt remapping serves it.
    pub chip: String,
    /// Names of the handlers, `, ` between them; empty when none is installed.
    pub actions: String,
}

/// Which kind of interrupt a handler of vfio serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfioKind {
    /// One vector of MSI-X.
    MsiX,
    /// One vector of MSI.
    Msi,
    /// The legacy line, which is not a vector slot.
    Intx,
}

/// A device interrupt that vfio forwards to a guest, by the name it gives its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VfioInterrupt {
    /// The device.
    pub device: PciAddress,
    /// How the device signals it.
    pub kind: VfioKind,
    /// Table index of the vector; 0 for the legacy line.
    pub slot: u16,
}

/// Parses `/proc/interrupts`. Rows of architecture counters (`LOC:`, `NMI:`) have no number and are left out.
/// What is malformed is named and left out too: one odd line must not hide the others.
#[must_use]
pub fn parse_interrupts(text: &str) -> (Vec<InterruptRow>, Vec<Malformed>) {
    let (mut rows, mut refused) = (Vec::new(), Vec::new());
    let mut lines = text.lines().zip(1..);
    let Some((header, _)) = lines.next() else {
        return (rows, vec![Malformed::new(1, "a header naming the CPUs", "")]);
    };
    let cpus = header.split_ascii_whitespace().count();
    if cpus == 0 || !header.split_ascii_whitespace().all(|name| name.starts_with("CPU")) {
        refused.push(Malformed::new(1, "a header naming the CPUs", header));
        return (rows, refused);
    }
    for (line, number) in lines {
        match parse_row(line, cpus) {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => {}
            Err(expected) => refused.push(Malformed::new(number, expected, line)),
        }
    }
    (rows, refused)
}

fn parse_row(line: &str, cpus: usize) -> Result<Option<InterruptRow>, &'static str> {
    let (label, mut rest) = line.split_once(':').ok_or("a label and a colon")?;
    let label = label.trim_start();
    if !label.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let number = IrqNumber(label.parse().map_err(|_| "an interrupt number")?);
    let mut count = 0u64;
    for _ in 0..cpus {
        let (word, after) = next_word(rest);
        let fired: u64 = word.parse().map_err(|_| "one count for each CPU")?;
        count = count.saturating_add(fired);
        rest = after;
    }
    let (chip, mut rest) = next_word(rest);
    // The number on the chip, with the flow type joined to it (`1-edge`); absent for interrupts without a domain.
    let (word, after) = next_word(rest);
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        rest = after;
        // Other architectures than x86 write the trigger apart.
        let (trigger, after) = next_word(rest);
        if matches!(trigger, "Edge" | "Level") {
            rest = after;
        }
    }
    Ok(Some(InterruptRow { number, count, chip: chip.to_owned(), actions: rest.trim().to_owned() }))
}

/// The next word and what follows it.
fn next_word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(' ');
    text.split_at(text.find(' ').unwrap_or(text.len()))
}

/// Parses a handler's name as vfio-pci gives it: `vfio-msix[V](BDF)`, `vfio-msi[V](BDF)`, `vfio-intx(BDF)`
/// (drivers/vfio/pci/vfio_pci_intrs.c, the same from 5.10 to 6.18). `None` for any other name.
#[must_use]
pub fn parse_vfio_action(name: &str) -> Option<VfioInterrupt> {
    let (head, device) = name.strip_prefix("vfio-")?.strip_suffix(')')?.split_once('(')?;
    let device = device.parse().ok()?;
    if head == "intx" {
        return Some(VfioInterrupt { device, kind: VfioKind::Intx, slot: 0 });
    }
    let (kind, slot) = head.strip_suffix(']')?.split_once('[')?;
    let kind = match kind {
        "msix" => VfioKind::MsiX,
        "msi" => VfioKind::Msi,
        _ => return None,
    };
    Some(VfioInterrupt { device, kind, slot: slot.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &str, expected: Option<(u32, u64, &str, &str)>) {
        let (rows, refused) = parse_interrupts(&format!("           CPU0       CPU1\n{line}\n"));
        assert_eq!(refused, [], "{line}");
        let found: Vec<_> =
            rows.iter().map(|r| (r.number.0, r.count, r.chip.as_str(), r.actions.as_str())).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{line}");
    }

    #[test]
    fn rows() {
        check(
            " 37:          0         19  IR-PCI-MSIX-0000:01:10.0   0-edge      vfio-msix[0](0000:01:10.0)",
            Some((37, 19, "IR-PCI-MSIX-0000:01:10.0", "vfio-msix[0](0000:01:10.0)")),
        );
        check(
            " 25:          1          2   PCI-MSI 81920-edge      PCIe PME, aerdrv",
            Some((25, 3, "PCI-MSI", "PCIe PME, aerdrv")),
        );
        check(
            "  9:   0   4294967295   IO-APIC   9-fasteoi   acpi",
            Some((9, 4_294_967_295, "IO-APIC", "acpi")),
        );
        check(" 99:          7          0  IR-PCI-MSI 1-edge    ", Some((99, 7, "IR-PCI-MSI", "")));
        check("  2:          0          0    XT-PIC      cascade", Some((2, 0, "XT-PIC", "cascade")));
        check(
            " 18:          0          4  GICv3  27 Level     arch_timer",
            Some((18, 4, "GICv3", "arch_timer")),
        );
        check("LOC:       8303       7648   Local timer interrupts", None);
        check("ERR:          0", None);
    }

    #[test]
    fn what_is_malformed_is_named_with_its_line() {
        for (text, message) in [
            ("", "line 1: expected a header naming the CPUs, found \"\""),
            ("x\n", "line 1: expected a header naming the CPUs, found \"x\""),
            ("CPU0\nNMI: 0\n 5: x\n", "line 3: expected one count for each CPU, found \" 5: x\""),
            ("CPU0 CPU1\n 5: 1\n", "line 2: expected one count for each CPU, found \" 5: 1\""),
            ("CPU0\nno colon\n", "line 2: expected a label and a colon, found \"no colon\""),
        ] {
            let (_, refused) = parse_interrupts(text);
            assert_eq!(refused.iter().map(ToString::to_string).collect::<Vec<_>>(), [message]);
        }
        let (rows, refused) = parse_interrupts("CPU0\n 1: 1 A 1-edge a\n 2: ? B\n 3: 3 C 3-edge c\n");
        assert_eq!((rows.len(), refused.len()), (2, 1), "one odd line hides no other");
    }

    #[test]
    fn vfio_names() {
        let device = "0000:01:10.2".parse().unwrap();
        for (name, expected) in [
            ("vfio-msix[12](0000:01:10.2)", Some((VfioKind::MsiX, 12))),
            ("vfio-msi[0](0000:01:10.2)", Some((VfioKind::Msi, 0))),
            ("vfio-intx(0000:01:10.2)", Some((VfioKind::Intx, 0))),
            ("vfio-msix[x](0000:01:10.2)", None),
            ("vfio-msix[70000](0000:01:10.2)", None),
            ("vfio-msix(0000:01:10.2)", None),
            ("vfio-msix[1](01:10.2)", None),
            ("vfio-other[1](0000:01:10.2)", None),
            ("eth0-TxRx-0", None),
            ("", None),
        ] {
            let expected = expected.map(|(kind, slot)| VfioInterrupt { device, kind, slot });
            assert_eq!(parse_vfio_action(name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            let _ = parse_interrupts(&text);
            let _ = parse_interrupts(&format!("CPU0 CPU1\n{text}"));
            let _ = parse_vfio_action(&text);
        }

        #[test]
        fn a_row_gives_back_what_was_put_in(
            number in 0u32..100_000,
            counts in proptest::collection::vec(0u64..u64::from(u32::MAX), 1..130),
            chip in "[A-Za-z][A-Za-z0-9:.-]{0,20}",
            actions in "([A-Za-z][A-Za-z0-9@.-]{0,12}(, [a-z0-9]{1,5})?)?",
        ) {
            let header: String = (0..counts.len()).map(|n| format!(" CPU{n}")).collect();
            let columns: String = counts.iter().map(|c| format!(" {c:>10}")).collect();
            let text = format!("{header}\n{number:>4}:{columns}  {chip}   3-edge      {actions}\n");
            let expected = InterruptRow { number: IrqNumber(number), count: counts.iter().sum(), chip, actions };
            prop_assert_eq!(parse_interrupts(&text), (vec![expected], vec![]));
        }
    }
}
