//! The places that connections take, and who gives one up when all are taken.
//!
//! A scrape that is being answered goes on beside clients that only connect, and a client gets its share whatever others
//! do: nobody loses a place to an address that holds as many or more.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::task::{AbortHandle, JoinSet};

/// Who is at the other end. Whoever has one IPv6 address has its /64 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// Since when a client is being answered: it has sent a whole head, and may have an answer.
pub(super) type Admitted = Arc<OnceLock<Instant>>;

/// Open connections.
#[derive(Default)]
pub(super) struct Places {
    pub(super) tasks: JoinSet<()>,
    by_age: VecDeque<Place>,
}

struct Place {
    peer: Peer,
    admitted: Admitted,
    task: AbortHandle,
}

/// A connection as the rule sees it.
#[derive(Clone, Copy, Debug)]
struct Held {
    peer: Peer,
    /// For how long it is being answered; `None` before that.
    answered: Option<Duration>,
}

impl Places {
    /// A client comes. When there are `most`, another gives way, which may have been answered for `patience` already; else
    /// the newcomer is turned away.
    pub(super) fn add<C: Future<Output = ()> + Send + 'static>(
        &mut self,
        peer: Peer,
        most: usize,
        patience: Duration,
        client: impl FnOnce(Admitted) -> C,
    ) {
        self.by_age.retain(|place| !place.task.is_finished());
        if self.by_age.len() >= most {
            let held = |place: &Place| Held {
                peer: place.peer,
                answered: place.admitted.get().map(Instant::elapsed),
            };
            let held: Vec<Held> = self.by_age.iter().map(held).collect();
            let Some(place) = gives_way(&held, peer, patience).and_then(|at| self.by_age.remove(at)) else {
                return tracing::debug!(most, ?peer, "too many connections; a client was turned away");
            };
            tracing::debug!(most, peer = ?place.peer, "too many connections; one gives way");
            place.task.abort();
        }
        let admitted = Admitted::default();
        let task = self.tasks.spawn(client(Arc::clone(&admitted)));
        self.by_age.push_back(Place { peer, admitted, task });
    }
}

/// Which connection, the oldest first, gives way to a newcomer; `None`: none does.
///
/// 1. One that is not being answered, of the newcomer's own address or of one that holds more.
/// 2. Else one that has been answered for longer than a scrape takes, of the same addresses.
/// 3. Else one of an address that holds two more at least: both then have their share.
///
/// Of several the one of the address that holds most, and then the oldest.
fn gives_way(held: &[Held], newcomer: Peer, patience: Duration) -> Option<usize> {
    let mut counts = BTreeMap::<Peer, usize>::new();
    held.iter().for_each(|one| *counts.entry(one.peer).or_default() += 1);
    let count = |peer: Peer| counts.get(&peer).copied().unwrap_or_default();
    let own = count(newcomer);
    let may_lose = |one: &Held| one.peer == newcomer || count(one.peer) > own;
    let first = |rule: &dyn Fn(&Held) -> bool| {
        let bound = held.iter().enumerate().rev().filter(|(_, one)| rule(one));
        // Of equals the last one, which is the oldest.
        bound.max_by_key(|(_, one)| count(one.peer)).map(|(at, _)| at)
    };
    first(&|one| one.answered.is_none() && may_lose(one))
        .or_else(|| first(&|one| one.answered.is_some_and(|time| time >= patience) && may_lose(one)))
        .or_else(|| first(&|one| count(one.peer) >= own + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn peer(name: char) -> Peer {
        Peer(IpAddr::from([127, 0, 0, u8::try_from(name).unwrap()]))
    }

    /// Connections, the oldest first: the address; behind it `+` when it is being answered, `*` when for long.
    fn held(text: &str) -> Vec<Held> {
        let one = |word: &str| {
            let answered = match word.get(1..) {
                Some("+") => Some(Duration::from_millis(5)),
                Some("*") => Some(PATIENCE),
                _ => None,
            };
            Held { peer: peer(word.chars().next().unwrap()), answered }
        };
        text.split(' ').map(one).collect()
    }

    #[test]
    fn who_gives_way() {
        for (all, newcomer, expected) in [
            // The oldest that has said nothing yet, before all that are being answered.
            ("a+ a a a", 'a', Some(1)),
            ("a* a+ a", 'a', Some(2)),
            // Of the address that holds most.
            ("b a a c", 'a', Some(1)),
            ("b a a c", 'd', Some(1)),
            // Never of one that holds less than the newcomer, however many come.
            ("b a+ a+ a+", 'a', None),
            ("b+ a+ a+ a+", 'a', None),
            ("b+ a+ a+ a*", 'a', Some(3)),
            // All are being answered: the address with too many gives some up to one with fewer.
            ("a+ a+ a+ a+", 'b', Some(0)),
            ("a+ a+ a+ b+", 'b', Some(0)),
            ("a+ a+ b+ b+", 'b', None),
            ("a+ b+ c+ d+", 'e', None),
            ("a+ b+ c* d*", 'e', Some(2)),
        ] {
            assert_eq!(gives_way(&held(all), peer(newcomer), PATIENCE), expected, "{all} and {newcomer}");
        }
    }

    #[test]
    fn addresses() {
        let peer = |text: &str| Peer::from(text.parse::<IpAddr>().unwrap());
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:0:0:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(peer(one) == peer(other), same, "{one} {other}");
        }
    }
}
