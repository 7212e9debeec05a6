//! Where a guest's vCPUs ran and its vectors went, before and after: CPUs as boxes, what has a CPU of its own in them.

use super::{
    chart::WIDTH,
    scale::Px,
    table::{Cell, Table},
};
use crate::{
    model::{CpuId, CpuSet, topology::Topology},
    report::{assess::Assessment, paths::topology},
    stats::summary::to_f64,
};
use askama::Template;
use std::collections::BTreeMap;

/// Boxes side by side.
const ACROSS: usize = 4;
const GAP: f64 = 12.0;
const BOX: f64 = (WIDTH - (ACROSS as f64 - 1.0) * GAP) / ACROSS as f64;
const CHIP: f64 = 24.0;
/// Boxes that are drawn; a host with more CPUs in use is a matter for the table.
const MOST_BOXES: usize = 32;

/// A vCPU or vector in its CPU.
struct Chip {
    x: Px,
    y: Px,
    class: &'static str,
    name: String,
}

/// One CPU.
struct CpuBox {
    x: Px,
    y: Px,
    height: Px,
    name: String,
    chips: Vec<Chip>,
}

/// One side's drawing.
#[derive(Template)]
#[template(path = "report/cpus.svg")]
pub(super) struct Cpus {
    id: String,
    title: String,
    description: String,
    height: Px,
    cpus: Vec<CpuBox>,
}

impl Cpus {
    fn width(&self) -> Px {
        Px(WIDTH)
    }

    fn box_width(&self) -> Px {
        Px(BOX)
    }

    fn chip_width(&self) -> Px {
        Px(BOX - 16.0)
    }
}

/// A vCPU or vector, and where it may be.
struct Item {
    name: String,
    class: &'static str,
    cpus: Option<CpuSet>,
}

/// Both sides' drawings and what they show as a table, of the guest that is compared. `None` when a side has no topology.
pub(super) fn before_and_after(id: usize, assessment: &Assessment<'_>) -> Option<([Cpus; 2], Table)> {
    let guest = assessment.headline.labels.get("guest").map(String::as_str);
    let (before, after) = (topology(&assessment.before)?, topology(&assessment.after)?);
    let (b, a) = (items(before, guest), items(after, guest));
    if b.is_empty() && a.is_empty() {
        return None;
    }
    let names = [&assessment.before.name, &assessment.after.name];
    let mut table = Table::new("CPUs of vCPUs and vectors", &["what", names[0].as_str(), names[1].as_str()]);
    let text = |item: Option<&Item>| match item.map(|item| &item.cpus) {
        Some(Some(cpus)) => cpus.to_string(),
        Some(None) => "not known".to_owned(),
        None => "was not there".to_owned(),
    };
    let mut rows: Vec<&str> = b.iter().chain(&a).map(|item| item.name.as_str()).collect();
    let mut seen = std::collections::BTreeSet::new();
    rows.retain(|name| seen.insert(*name));
    for name in rows {
        let of = |items: &[Item]| text(items.iter().find(|item| item.name == name));
        let (one, other) = (of(&b), of(&a));
        let changed = if one == other { "" } else { "changed" };
        table.push(vec![name.into(), one.into(), Cell { text: other, class: changed }]);
    }
    // The same boxes on both sides, so that a move is seen as one.
    let used: CpuSet = b.iter().chain(&a).filter_map(|item| item.cpus.as_ref()?.only()).collect();
    let boxes: Vec<CpuId> = used.iter().take(MOST_BOXES).collect();
    let draw = |side: &str, name: &str, items: &[Item]| {
        let title = format!("vCPUs and vectors under {name}");
        drawing(format!("cpus-{side}-{id}"), title, &boxes, items)
    };
    Some(([draw("before", names[0], &b), draw("after", names[1], &a)], table))
}

fn items(topology: &Topology, guest: Option<&str>) -> Vec<Item> {
    let guests = topology.guests.iter().filter(|one| guest.is_none_or(|name| one.name == name));
    let mut items = Vec::new();
    for one in guests {
        // One guest's name need not be said each time.
        let prefix = if guest.is_some() { String::new() } else { format!("{} ", one.name) };
        for vcpu in &one.vcpus {
            let cpus = Some(vcpu.thread.affinity.clone());
            items.push(Item { name: format!("{prefix}vCPU {}", vcpu.index), class: "vcpu", cpus });
        }
        for vf in &one.vfs {
            for slot in &vf.slots {
                let cpus = slot.effective_affinity.clone().or_else(|| slot.affinity.clone());
                let name = format!("{prefix}{} slot {}", vf.address, slot.slot);
                items.push(Item { name, class: "slot", cpus });
            }
        }
    }
    items
}

fn drawing(id: String, title: String, boxes: &[CpuId], items: &[Item]) -> Cpus {
    let mut within: BTreeMap<CpuId, Vec<&Item>> = BTreeMap::new();
    let mut floating: Vec<String> = Vec::new();
    for item in items {
        match item.cpus.as_ref().and_then(CpuSet::only) {
            Some(cpu) => within.entry(cpu).or_default().push(item),
            None => floating.push(item.cpus.as_ref().map_or_else(
                || format!("{}: not known", item.name),
                |cpus| format!("{}: any of {cpus}", item.name),
            )),
        }
    }
    let mut description: Vec<String> = within
        .iter()
        .map(|(cpu, items)| {
            let names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
            format!("CPU {cpu}: {}", names.join(", "))
        })
        .collect();
    description.extend(floating);
    let mut cpus = Vec::new();
    let mut y = 2.0;
    for row in boxes.chunks(ACROSS) {
        let most = row.iter().map(|cpu| within.get(cpu).map_or(0, Vec::len)).max().unwrap_or(0);
        let height = 30.0 + to_f64(most.try_into().unwrap_or(0)) * CHIP + 4.0;
        for (n, cpu) in (0u32..).zip(row) {
            let x = f64::from(n) * (BOX + GAP);
            let chips = (0u32..).zip(within.get(cpu).into_iter().flatten()).map(|(at, item)| Chip {
                x: Px(x + 8.0),
                y: Px(y + 28.0 + f64::from(at) * CHIP),
                class: item.class,
                // The address is in the table; in a box there is room for the slot.
                name: item
                    .name
                    .rsplit_once(" slot ")
                    .map_or_else(|| item.name.clone(), |(_, n)| format!("slot {n}")),
            });
            let chips = chips.collect();
            cpus.push(CpuBox { x: Px(x), y: Px(y), height: Px(height), name: format!("CPU {cpu}"), chips });
        }
        y += height + GAP;
    }
    Cpus { id, title, description: description.join("; "), height: Px(y), cpus }
}
