//! Calls of tools about which something must be known: parameters that a modern client mirrors into headers, results that a
//! legacy client sees in another shape. What is known comes from the instance's own reading of `tools/list`.

use crate::call::{Asked, leg};
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use std::sync::Arc;
use std::time::Duration;
use supervisor::Lease;
use wire::bridge::Leg;
use wire::catalogue::Catalogue;
use wire::message::Message;
use wire::param::{self, Mismatch, PREFIX};
use wire::scan::Place;

const CALL: &str = "tools/call";
const LIST: &str = "tools/list";

/// The `Mcp-Param-*` headers of a request, as they came. Their values are shown to nobody (E207).
#[derive(Default)]
pub(crate) struct Mirrored(Vec<(HeaderName, Bytes)>);

impl Mirrored {
    /// Those among `headers`. Without any, nothing is allocated.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let all = headers.iter().filter(|(name, _)| name.as_str().starts_with(PREFIX));
        Self(all.map(|(name, value)| (name.clone(), Bytes::copy_from_slice(value.as_bytes()))).collect())
    }
}

impl std::fmt::Debug for Mirrored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Refuses a modern call whose headers do not mirror its body (E54, E57). An unknown tool is the server's to refuse (E63).
pub(crate) async fn check(asked: &Asked, lease: &Lease, wait: Duration) -> Result<(), Mismatch> {
    let leg = leg(asked, lease);
    if leg == Leg::LegacyToLegacy || lease.instance().tools_are_plain() {
        return Ok(());
    }
    lease.instance().want_tools();
    if leg == Leg::LegacyToModern || asked.message.method() != CALL {
        return Ok(());
    }
    let Some(catalogue) = Box::pin(catalogue(lease, wait)).await else { return Ok(()) };
    let name = asked.message.text(Place::Params, "name").unwrap_or_default();
    let Some(tool) = catalogue.tool(&name) else { return Ok(()) };
    let headers: Vec<_> =
        asked.mirrored.0.iter().map(|(name, value)| (&name.as_str()[PREFIX.len()..], value)).collect();
    param::check(tool.params(), &asked.message, &headers)
}

async fn catalogue(lease: &Lease, wait: Duration) -> Option<Arc<Catalogue>> {
    lease.instance().catalogue(wait).await
}

/// A client was answered its list of tools: if it says something else than ours, ours is out of date.
pub(crate) fn listed(asked: &Asked, lease: &Lease, answer: &Message) {
    if asked.message.method() == LIST {
        lease.instance().listed(answer);
    }
}
