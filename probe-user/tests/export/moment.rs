//! Scrapes while configurations change: each is of one moment.
//!
//! The source counts one event in a counter and in a histogram, and changes its configuration under the same lock, as the
//! service does. Configurations are numbered, so that a scrape shows by itself which have ended.

use crate::{
    exposition::{Exposition, parse},
    http::{GENEROUS, Server, body},
    made_up::{counter, series},
};
use probe_user::{
    export::{CountedVf, Figures, Source, SourceError, Status, ledger::Ledger},
    stats::{Histogram, Snapshot},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

const CONFIGS: usize = 12;
const EVENTS: u64 = 200;
const VECTOR: [(&str, &str); 4] = [("guest", "a"), ("vf", "0000:01:10.0"), ("slot", "0"), ("vcpu", "0")];

struct Changing {
    now: Mutex<(Ledger, Histogram)>,
    scrapes: AtomicUsize,
}

fn snapshot(times: &Histogram) -> Snapshot {
    let mut delivery = series("irq_delivery", &[VECTOR.as_slice(), &[("stage", "delivery")]].concat(), &[]);
    delivery.histogram = times.clone();
    let delivered = counter("irq_delivery", "delivered", &VECTOR, times.n());
    Snapshot { series: vec![delivery], counters: vec![delivered], ..Snapshot::default() }
}

impl Source for Changing {
    fn figures(&self) -> Result<Figures, SourceError> {
        self.scrape().0
    }

    fn status(&self) -> Status {
        self.scrape().1
    }

    fn scrape(&self) -> (Result<Figures, SourceError>, Status) {
        self.scrapes.fetch_add(1, Ordering::SeqCst);
        let (ledger, times) = &*self.now.lock().unwrap();
        let status = Status { config: ledger.config().to_owned(), ..Status::default() };
        (Ok(ledger.label(snapshot(times))), status)
    }

    fn vf_counters(&self) -> Vec<CountedVf> {
        Vec::new()
    }
}

impl Changing {
    /// Counts, and goes from one configuration to the next as soon as each was scraped.
    fn change(&self) {
        for config in 1..=CONFIGS {
            let before = self.scrapes.load(Ordering::SeqCst);
            for event in 0..EVENTS {
                self.now.lock().unwrap().1.record(300 << (event % 20));
            }
            while self.scrapes.load(Ordering::SeqCst) == before {
                std::thread::yield_now();
            }
            let (ledger, times) = &mut *self.now.lock().unwrap();
            ledger.switch(snapshot(times), config.to_string());
        }
    }
}

/// Figures of a metric by configuration.
fn by_config(all: &Exposition, name: &str) -> BTreeMap<usize, u64> {
    let value = |value: f64| value.to_string().parse().unwrap();
    all.named(name).map(|(labels, n)| (labels["config"].parse().unwrap(), value(n))).collect()
}

#[tokio::test]
async fn a_scrape_during_changes_is_of_one_moment() {
    let now = Mutex::new((Ledger::new("0", CONFIGS), Histogram::default()));
    let source = Arc::new(Changing { now, scrapes: AtomicUsize::new(0) });
    let server = Arc::new(Server::start(Arc::clone(&source) as Arc<dyn Source>, GENEROUS).await);
    let ended = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (server, ended) = (Arc::clone(&server), Arc::clone(&ended));
            tokio::spawn(async move {
                let (mut before, mut current) = (BTreeMap::new(), 0);
                let mut last = false;
                while !last {
                    last = ended.load(Ordering::SeqCst);
                    let all = parse(body(&server.get("/metrics").await)).unwrap();
                    let named: Vec<usize> = by_config(&all, "vfprobe_config_info").into_keys().collect();
                    let [config] = named[..] else { panic!("{named:?} in force") };
                    let delivered = by_config(&all, "vfprobe_irq_delivery_delivered_total");
                    // What was counted at once is told at once, and nothing of a configuration that is still to come.
                    assert_eq!(by_config(&all, "vfprobe_irq_delivery_seconds_count"), delivered);
                    assert!(delivered.keys().all(|counted| *counted <= config), "{config}: {delivered:?}");
                    for (counted, n) in &before {
                        // One that had ended before stands still; none falls.
                        assert!(delivered[counted] >= *n, "{counted}: {n}, {delivered:?}");
                        assert!(*counted >= current || delivered[counted] == *n, "{counted}: {n}");
                    }
                    (before, current) = (delivered, config);
                }
                (before, current)
            })
        })
        .collect();
    let changing = Arc::clone(&source);
    tokio::task::spawn_blocking(move || changing.change()).await.unwrap();
    ended.store(true, Ordering::SeqCst);
    for client in clients {
        let (delivered, config) = client.await.unwrap();
        assert_eq!(config, CONFIGS);
        // Each configuration has exactly what was counted under it; the last one was only begun.
        let expected = (0..=CONFIGS).map(|config| (config, if config < CONFIGS { EVENTS } else { 0 }));
        assert_eq!(delivered, expected.collect());
    }
    Arc::into_inner(server).unwrap().stop().await;
}
