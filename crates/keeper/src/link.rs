//! One end of the socket: bytes and descriptors in and out.

use crate::wire::{Body, HEAD, MAX_BODY, MAX_FDS, Malformed, decode};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt::socket_peercred,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors that may wait for the rest of their frame.
const MAX_WAITING: usize = 4 * MAX_FDS;

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
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_WAITING))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; 16 << 10];
        let came = recvmsg(socket, &mut [IoSliceMut::new(&mut chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        let full = self.fds.len() > MAX_WAITING || self.bytes.len() > 2 * (HEAD + MAX_BODY);
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
