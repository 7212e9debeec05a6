//! From events to timelines: each event finds its interrupt, each interrupt its end.

use super::{Event, Hop, Id, Outcome, Timeline, What};
use crate::model::PciAddress;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How long an interrupt is waited for after its last hop (ns). Twice what the programs follow it.
const PATIENCE_NS: u64 = 2 * probe_ebpf::probes::trace::PATIENCE_NS;

/// Whose VFs and threads there are.
#[derive(Clone, Debug, Default)]
pub struct Who {
    /// Guest by VF.
    pub guests: BTreeMap<PciAddress, String>,
    /// vCPU index by thread.
    pub vcpus: BTreeMap<u32, String>,
}

/// Which timelines are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// So many, as they end.
    First(usize),
    /// So many, those with the longest delivery.
    Slowest(usize),
}

/// What was made of the events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Timelines that were kept, in the order in which they were raised, or the slowest first.
    pub timelines: Vec<Timeline>,
    /// Interrupts seen.
    pub seen: u64,
    /// Of these, with a delivery long enough to be shown.
    pub matched: u64,
    /// Of those seen, with a gap.
    pub incomplete: u64,
}

/// Collects events until they make whole timelines.
#[derive(Debug)]
pub struct Joiner {
    who: Who,
    keep: Keep,
    /// Only interrupts whose delivery takes longer are kept (ns).
    longer_than: Option<u64>,
    open: BTreeMap<Id, Open>,
    /// Interrupts that wait for a vCPU, by its thread.
    waiting: BTreeMap<u32, BTreeSet<Id>>,
    pub(super) joined: Joined,
}

#[derive(Debug, Default)]
struct Open {
    hops: Vec<Hop>,
    vcpu: Option<u32>,
    last_ns: u64,
    /// vCPUs that it waits for or is in service on: an interrupt can go to several.
    under_way: u32,
    handled: bool,
}

impl Open {
    /// Whether nothing more can come. The handler may end after the guest is done with it on another CPU.
    fn is_over(&self) -> bool {
        self.handled && self.under_way == 0 && self.hops.iter().any(|hop| hop.what == What::Ended)
    }
}

impl Joiner {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(who: Who, keep: Keep, longer_than: Option<u64>) -> Self {
        Self {
            who,
            keep,
            longer_than,
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            joined: Joined::default(),
        }
    }

    /// Takes a batch of events. They may be a little out of order, as CPUs are.
    pub fn add(&mut self, mut batch: Vec<Event>) {
        batch.sort_by_key(|event| event.hop.ns);
        for event in batch {
            match event.id {
                Some(id) => self.add_own(id, event),
                None => self.add_shared(&event),
            }
        }
    }

    fn add_own(&mut self, id: Id, event: Event) {
        let Event { hop, vcpu, .. } = event;
        let open = self.open.entry(id).or_default();
        open.last_ns = open.last_ns.max(hop.ns);
        open.vcpu = open.vcpu.or(vcpu);
        let waits = |what: &What| matches!(what, What::Accepted { pending: false, .. });
        let settled = |what: &What| matches!(what, What::Entered | What::Hardware | What::Ended);
        let (begins, settles) = (waits(&hop.what), settled(&hop.what));
        open.handled |= hop.what == What::Handled;
        if begins {
            open.under_way += 1;
        } else if matches!(hop.what, What::Hardware | What::Ended) {
            open.under_way = open.under_way.saturating_sub(1);
        }
        open.hops.push(hop);
        let over = open.is_over();
        if let Some(thread) = vcpu {
            let waiting = self.waiting.entry(thread).or_default();
            if begins {
                waiting.insert(id);
            } else if settles {
                waiting.remove(&id);
            }
        }
        if over {
            self.close(id);
        }
    }

    fn add_shared(&mut self, event: &Event) {
        let Some(waiting) = event.vcpu.and_then(|thread| self.waiting.get(&thread)) else { return };
        for id in waiting {
            if let Some(open) = self.open.get_mut(id) {
                open.last_ns = open.last_ns.max(event.hop.ns);
                open.hops.push(event.hop.clone());
            }
        }
    }

    /// Gives up waiting for interrupts of which nothing was heard for long.
    pub fn expire(&mut self, now_ns: u64) {
        let old = |open: &Open| now_ns.saturating_sub(open.last_ns) > PATIENCE_NS;
        let gone: Vec<Id> = self.open.iter().filter(|(_, open)| old(open)).map(|(id, _)| *id).collect();
        for id in gone {
            self.close(id);
        }
    }

    /// Whether as many were kept as are wanted.
    #[must_use]
    pub fn full(&self) -> bool {
        matches!(self.keep, Keep::First(most) if self.joined.timelines.len() >= most)
    }

    /// Whether every interrupt that was raised has come to its end.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.open.is_empty()
    }

    /// Interrupts that ended so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.joined.seen
    }

    /// Ends everything and gives out what was kept.
    #[must_use]
    pub fn finish(mut self) -> Joined {
        let rest: Vec<Id> = self.open.keys().copied().collect();
        for id in rest {
            self.close(id);
        }
        match self.keep {
            Keep::First(most) => {
                self.joined.timelines.truncate(most);
                self.joined.timelines.sort_by_key(|timeline| timeline.id);
            }
            Keep::Slowest(most) => self.keep_slowest(most),
        }
        self.joined
    }

    fn keep_slowest(&mut self, most: usize) {
        // Stable: of equals the first stays.
        self.joined.timelines.sort_by_key(|timeline| Reverse(timeline.stages().delivery));
        self.joined.timelines.truncate(most);
    }

    fn close(&mut self, id: Id) {
        let Some(Open { mut hops, vcpu, .. }) = self.open.remove(&id) else { return };
        if let Some(waiting) = vcpu.and_then(|thread| self.waiting.get_mut(&thread)) {
            waiting.remove(&id);
        }
        hops.sort_by_key(|hop| hop.ns);
        let (outcome, complete) = judge(&hops);
        let by_id = || {
            hops.iter().find_map(|hop| match hop.what {
                What::Accepted { vcpu_id, .. } => Some(vcpu_id.to_string()),
                _ => None,
            })
        };
        let timeline = Timeline {
            id,
            guest: self.who.guests.get(&id.vf).cloned().unwrap_or_else(|| "unknown".to_owned()),
            vcpu: vcpu.and_then(|thread| self.who.vcpus.get(&thread).cloned()).or_else(by_id),
            hops,
            outcome,
            complete,
        };
        self.joined.seen += 1;
        self.joined.incomplete += u64::from(!complete);
        let delivery = timeline.stages().delivery;
        let slowest = matches!(self.keep, Keep::Slowest(_));
        // One whose delivery is not known is neither long nor short.
        let wanted = match self.longer_than {
            Some(limit) => delivery.is_some_and(|ns| ns > limit),
            None => !slowest || delivery.is_some(),
        };
        if !wanted {
            return;
        }
        self.joined.matched += 1;
        match self.keep {
            Keep::First(most) if self.joined.timelines.len() >= most => {}
            Keep::First(_) => self.joined.timelines.push(timeline),
            Keep::Slowest(most) => {
                self.joined.timelines.push(timeline);
                // Now and then, so that memory stays bounded and sorting cheap.
                if self.joined.timelines.len() > most.saturating_mul(2).max(64) {
                    self.keep_slowest(most);
                }
            }
        }
    }
}

/// What became of an interrupt, and whether its hops tell all of it.
fn judge(hops: &[Hop]) -> (Outcome, bool) {
    let has = |wanted: &dyn Fn(&What) -> bool| hops.iter().any(|hop| wanted(&hop.what));
    let raised = has(&|w| matches!(w, What::Raised { .. }));
    let busy = has(&|w| matches!(w, What::Raised { busy: true, .. }));
    let accepted = has(&|w| matches!(w, What::Accepted { .. }));
    let pending = has(&|w| matches!(w, What::Accepted { pending: true, .. }));
    let injected = has(&|w| matches!(w, What::Injected { .. }));
    let entered = has(&|w| *w == What::Entered);
    let hardware = has(&|w| *w == What::Hardware);
    let queued = has(&|w| *w == What::Queued);
    let ended = has(&|w| *w == What::Ended);
    let handled = has(&|w| *w == What::Handled);
    let outcome = if entered || ended {
        Outcome::Delivered
    } else if hardware {
        Outcome::Hardware
    } else if pending && !injected {
        Outcome::Coalesced
    } else if accepted || injected || queued || !raised {
        Outcome::Open
    } else if busy {
        Outcome::Merged
    } else if handled {
        Outcome::Userspace
    } else {
        Outcome::Open
    };
    let whole = match outcome {
        Outcome::Delivered => accepted && injected && entered,
        Outcome::Hardware => accepted,
        _ => true,
    };
    (outcome, raised && whole)
}
