//! What the controller is told by the rest of the service: messages, and a descriptor that is readable while one waits.

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Reload,
    Stop,
}

/// For those who tell.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    messages: mpsc::Sender<Message>,
    flag: Arc<OwnedFd>,
}

/// For the one who is told.
#[derive(Debug)]
pub(super) struct Inbox {
    messages: mpsc::Receiver<Message>,
    flag: Arc<OwnedFd>,
}

/// Both ends.
///
/// # Errors
/// When the process may have no more descriptors.
pub(super) fn mailbox() -> io::Result<(Outbox, Inbox)> {
    let flag = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = mpsc::channel();
    Ok((Outbox { messages: sender, flag: Arc::clone(&flag) }, Inbox { messages: receiver, flag }))
}

impl Outbox {
    /// Tells; nobody listens any more only when the controller is being stopped.
    pub(super) fn tell(&self, message: Message) {
        if self.messages.send(message).is_ok() {
            // Full only after 2^64 messages.
            let _ = rustix::io::write(&*self.flag, &1_u64.to_ne_bytes());
        }
    }
}

impl Inbox {
    /// The next message; the end of all who could tell is one to stop.
    pub(super) fn next(&self) -> Option<Message> {
        // Before the messages: one that comes in between is announced again.
        let _ = rustix::io::read(&*self.flag, &mut [0_u8; 8]);
        match self.messages.try_recv() {
            Ok(message) => Some(message),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Message::Stop),
        }
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.flag.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn waits(inbox: &Inbox) -> bool {
        let mut fds = [PollFd::new(inbox, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    #[test]
    fn messages_are_announced_and_come_in_order() {
        let (outbox, inbox) = mailbox().unwrap();
        assert!(!waits(&inbox));
        assert_eq!(inbox.next(), None);
        outbox.clone().tell(Message::Reload);
        outbox.tell(Message::Stop);
        assert!(waits(&inbox));
        assert_eq!(
            [inbox.next(), inbox.next(), inbox.next()],
            [Some(Message::Reload), Some(Message::Stop), None]
        );
        assert!(!waits(&inbox));
        drop(outbox);
        assert_eq!(inbox.next(), Some(Message::Stop));
    }
}
