//! Passwords: "Basic" authorization (RFC 7617) against bcrypt hashes.
//!
//! A bcrypt hash takes tens of milliseconds on purpose. So what was right once is remembered, as a keyed digest that only
//! this process can make, and wrong guesses are looked at one at a time with a pause behind each: however many clients
//! guess, that takes a fifth of one CPU, and who has been in already is not kept waiting. Who has not waits behind one guess
//! of each other address, not behind all that somebody makes.

use super::super::places::Peer;
use super::WebError;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use ring::{hmac, rand::SystemRandom};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// How much longer than a wrong guess took the next one has to wait.
const PAUSE: u32 = 4;
/// The longest such wait.
const LONGEST: Duration = Duration::from_secs(5);

/// Users and the hashes of their passwords.
pub(super) struct Users {
    hashes: BTreeMap<String, String>,
    /// Compared with when there is no such user, so that this takes as long.
    decoy: String,
    /// Made anew in each process.
    key: hmac::Key,
    /// Digests of passwords that were right, by user.
    known: Arc<Mutex<BTreeMap<String, hmac::Tag>>>,
    /// Held while a password is compared with its hash.
    turn: Turn,
    /// Held by whoever of an address waits for that: the others of the address wait here.
    turns: Mutex<BTreeMap<Peer, Weak<tokio::sync::Mutex<()>>>>,
}

type Turn = Arc<tokio::sync::Mutex<()>>;

impl Users {
    /// Hashes must be such that bcrypt can read.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Self, WebError> {
        let cost = |hash: &String| hash.parse::<bcrypt::HashParts>().map_or(0, |parts| parts.get_cost());
        let cost = hashes.values().map(cost).max().unwrap_or_default();
        let decoy = format!("$2b${cost:02}${}{}", ".".repeat(22), ".".repeat(31));
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| WebError::Random)?;
        Ok(Self { hashes, decoy, key, known: Arc::default(), turn: Arc::default(), turns: Mutex::default() })
    }

    /// Whether the headers name a user and the right password.
    pub(super) async fn lets_in(&self, peer: Peer, headers: &HeaderMap) -> bool {
        match credentials(headers) {
            Some((user, password)) => self.knows(peer, user, password).await,
            None => false,
        }
    }

    /// The turn among those of an address.
    fn turn_of(&self, peer: Peer) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let there = turns.get(&peer).and_then(Weak::upgrade);
        there.unwrap_or_else(|| {
            let turn = Turn::default();
            turns.insert(peer, Arc::downgrade(&turn));
            turn
        })
    }

    async fn knows(&self, peer: Peer, user: String, password: Vec<u8>) -> bool {
        let tag = hmac::sign(&self.key, &password);
        if self.remembers(&user, &password) {
            return true;
        }
        let own = self.turn_of(peer).lock_owned().await;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        // Somebody else may have brought the same meanwhile.
        if self.remembers(&user, &password) {
            return true;
        }
        let hash = self.hashes.get(&user);
        let is_user = hash.is_some();
        let hash = hash.unwrap_or(&self.decoy).clone();
        let known = Arc::clone(&self.known);
        let (tell, told) = oneshot::channel();
        // On its own: a client that hangs up must not let the next guess in earlier.
        tokio::spawn(async move {
            let began = Instant::now();
            let right = spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
            let right = right.unwrap_or(false) && is_user;
            if right {
                known.lock().unwrap_or_else(PoisonError::into_inner).insert(user, tag);
            }
            let _ = tell.send(right);
            if !right {
                tokio::time::sleep((began.elapsed() * PAUSE).min(LONGEST)).await;
            }
            drop((turn, own));
        });
        told.await.unwrap_or(false)
    }

    /// In constant time for a given user.
    fn remembers(&self, user: &str, password: &[u8]) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(user).is_some_and(|tag| hmac::verify(&self.key, password, tag.as_ref()).is_ok())
    }
}

/// User and password of a request.
fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let (scheme, code) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let mut user = BASE64_STANDARD.decode(code.trim()).ok()?;
    let colon = user.iter().position(|byte| *byte == b':')?;
    let password = user.split_off(colon + 1);
    user.pop();
    Some((String::from_utf8(user).ok()?, password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(value: &str) -> HeaderMap {
        [(AUTHORIZATION, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    fn basic(text: &str) -> HeaderMap {
        headers(&format!("Basic {}", BASE64_STANDARD.encode(text)))
    }

    fn peer(last: u8) -> Peer {
        Peer::from(std::net::IpAddr::from([192, 0, 2, last]))
    }

    fn users() -> Users {
        let hash = |password| bcrypt::hash(password, 4).unwrap();
        Users::new([("prom".to_owned(), hash("se:cret")), ("ann".to_owned(), hash(""))].into()).unwrap()
    }

    #[tokio::test]
    async fn who_gets_in() {
        let users = users();
        // Twice: what was right, and what was wrong, is so again.
        for _ in 0..2 {
            for (headers, expected) in [
                (HeaderMap::new(), false),
                (basic("prom:se:cret"), true),
                (headers(&format!("bAsIc  {}", BASE64_STANDARD.encode("prom:se:cret"))), true),
                (basic("prom:se"), false),
                (basic("prom:"), false),
                (basic("prom"), false),
                (basic("ann:"), true),
                (basic("ann:se:cret"), false),
                (basic("bob:se:cret"), false),
                (basic(":"), false),
                (headers("Basic ???"), false),
                (headers("Basic"), false),
                (headers("Bearer cHJvbTpzZTpjcmV0"), false),
                (headers(&format!("Basic {}", BASE64_STANDARD.encode(b"\xff\xfe:x"))), false),
                (basic("prom:se\0cret"), false),
            ] {
                assert_eq!(users.lets_in(peer(1), &headers).await, expected, "{headers:?}");
            }
        }
    }

    #[tokio::test]
    async fn only_what_was_right_is_remembered() {
        let users = users();
        assert!(!users.lets_in(peer(1), &basic("prom:wrong")).await);
        assert!(users.known.lock().unwrap().is_empty());
        assert!(users.lets_in(peer(1), &basic("prom:se:cret")).await);
        assert!(users.remembers("prom", b"se:cret"));
        assert!(!users.remembers("ann", b"se:cret"));
        // While a guess is looked at, one who is known does not wait: it could not end here, the turn is taken.
        let turn = users.turn.lock().await;
        assert!(users.lets_in(peer(1), &basic("prom:se:cret")).await);
        drop(turn);
    }

    #[tokio::test]
    async fn who_guesses_keeps_no_other_address_waiting() {
        let users = Arc::new(users());
        let mut guesses = tokio::task::JoinSet::new();
        for guess in 0..63 {
            let users = Arc::clone(&users);
            guesses.spawn(async move { users.lets_in(peer(1), &basic(&format!("prom:{guess}"))).await });
        }
        // Until the first of them has its turn, and the others wait.
        while users.turn.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(users.lets_in(peer(2), &basic("prom:se:cret")).await);
        let mut done = 0;
        while let Some(guess) = guesses.try_join_next() {
            assert!(!guess.unwrap());
            done += 1;
        }
        assert!(done <= 2, "{done} guesses came first");
    }

    #[test]
    fn the_decoy_is_a_hash() {
        let users = users();
        assert_eq!(users.decoy.parse::<bcrypt::HashParts>().unwrap().get_cost(), 4);
        assert!(!bcrypt::verify("x", &users.decoy).unwrap());
    }
}
