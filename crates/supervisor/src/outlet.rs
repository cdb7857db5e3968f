//! Where the lines for a server go: into the pipe of its process, or out as HTTP. The same lines either way.

use crate::pipe::{WriteError, Writer};
use crate::remote::Link;
use std::sync::Arc;
use std::time::Instant;

/// The writing side of one instance.
#[derive(Debug)]
pub(crate) enum Outlet {
    Pipe(Writer),
    Remote(Arc<Link>),
}

impl Outlet {
    /// Sends one line, newline included. `patient` lines may wait for others.
    pub(crate) fn send(&self, line: Vec<u8>, patient: bool) -> Result<(), WriteError> {
        match self {
            Self::Pipe(writer) => writer.send(line, patient),
            Self::Remote(link) => link.send(line),
        }
    }

    /// Goes on where a pipe was full, for as long as it is open.
    pub(crate) async fn drain(&self) {
        match self {
            Self::Pipe(writer) => writer.drain().await,
            Self::Remote(_) => {}
        }
    }

    /// Since when a pipe is full and has taken nothing.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        match self {
            Self::Pipe(writer) => writer.stuck_since(),
            Self::Remote(_) => None,
        }
    }

    /// Nothing more is sent.
    pub(crate) fn close(&self) {
        match self {
            Self::Pipe(writer) => writer.close(),
            Self::Remote(link) => link.cut(),
        }
    }
}
