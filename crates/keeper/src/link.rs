//! One end of the socket: bytes and descriptors in and out, and a connection that waits for neither.

use crate::wire::{Body, HEAD, MAX_BODY, MAX_FDS, Malformed, decode, encode};
use rustix::event::PollFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt::socket_peercred,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Instant;

/// Descriptors that may wait for the rest of their frame.
const MAX_WAITING_FDS: usize = 4 * MAX_FDS;
/// Bytes that may wait for a daemon that does not read: a list of ten thousand instances.
const MAX_UNSENT: usize = 512 << 10;

/// What came and is no complete frame yet. Descriptors arrive with the first byte of their frame, in the order of the
/// frames: when a frame is complete, its own are the first that wait.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame<B> {
    pub(crate) request: u32,
    pub(crate) body: B,
    pub(crate) fds: Vec<OwnedFd>,
}

// === impl Inbox ===

impl Inbox {
    /// Takes what is there, once. 0 bytes: the other side has closed.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_WAITING_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; 16 << 10];
        let came = recvmsg(socket, &mut [IoSliceMut::new(&mut chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        let full = self.fds.len() > MAX_WAITING_FDS || self.bytes.len() > 2 * (HEAD + MAX_BODY);
        if full || came.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("more came than any frame has"));
        }
        self.bytes.extend(chunk.get(..came.bytes).unwrap_or_default());
        Ok(came.bytes)
    }

    /// The next complete frame.
    pub(crate) fn next<B: Body>(&mut self) -> Result<Option<Frame<B>>, Malformed> {
        let Some((request, said, body, length)) = decode(&self.bytes)? else { return Ok(None) };
        if self.fds.len() < said {
            return Err(Malformed::Descriptors { said, came: self.fds.len() });
        }
        let fds = self.fds.drain(..said).collect();
        self.bytes.drain(..length);
        if self.bytes.is_empty() {
            // A long frame must not stay resident for ever.
            self.bytes = Vec::new();
        }
        Ok(Some(Frame { request, body, fds }))
    }
}

/// A connection that is neither waited for when it reads nor when it writes.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
    pub(crate) inbox: Inbox,
    /// Frames not yet sent, with the descriptors that ride on their first byte.
    unsent: VecDeque<(Vec<u8>, Vec<Rc<OwnedFd>>)>,
    unsent_bytes: usize,
    pub(crate) since: Instant,
    /// It is over once everything is sent; nothing more is heard from it.
    pub(crate) leaving: bool,
}

// === impl Connection ===

impl Connection {
    /// Of a peer that is this user.
    pub(crate) fn new(socket: UnixStream, since: Instant) -> io::Result<Self> {
        if !is_ours(&socket) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket, inbox: Inbox::default(), unsent: VecDeque::new(), unsent_bytes: 0, since, leaving: false })
    }

    /// What it waits for.
    pub(crate) fn wants(&self) -> PollFlags {
        let room = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        if self.leaving { room } else { room | PollFlags::IN }
    }

    /// Whether it has left, and has been told everything.
    pub(crate) fn is_over(&self) -> bool {
        self.leaving && self.unsent.is_empty()
    }

    /// Takes what came. An error: the connection is over.
    pub(crate) fn hear(&mut self) -> io::Result<()> {
        match self.inbox.receive(&self.socket) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends a frame, now or when there is room. An error: the connection is over, also because too much waits.
    pub(crate) fn say(&mut self, request: u32, body: &impl Body, fds: Vec<Rc<OwnedFd>>) -> io::Result<()> {
        let bytes = encode(request, fds.len(), body).map_err(io::Error::other)?;
        self.unsent_bytes += bytes.len();
        self.unsent.push_back((bytes, fds));
        self.flush()?;
        if self.unsent_bytes > MAX_UNSENT { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Sends what there is room for.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, fds)) = self.unsent.front_mut() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
            match send(&self.socket, bytes, &borrowed) {
                Ok(sent) => {
                    self.unsent_bytes -= sent;
                    fds.clear();
                    bytes.drain(..sent);
                    if bytes.is_empty() {
                        self.unsent.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends as many bytes of a frame as there is room for; the descriptors ride on the first of them.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one frame"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Whether the other side is this user, or root, who may do everything anyway.
pub(crate) fn is_ours(socket: impl AsFd) -> bool {
    socket_peercred(socket).is_ok_and(|peer| peer.uid == rustix::process::geteuid() || peer.uid.is_root())
}
