//! The era matrix as data: what happens for each client, server, feature and hosting mode. `docs/eras.md` is printed
//! from it, and the matrix test of the gateway asserts every cell. A cell is exact unless an exception says otherwise.

use std::fmt;

/// The revision that a client speaks. The first one comes over HTTP+SSE, the others over Streamable HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// 2024-11-05, at `/sse/<server>`.
    V2024,
    /// 2025-03-26.
    March,
    /// 2025-06-18.
    June,
    /// 2025-11-25.
    November,
    /// 2026-07-28, without a session.
    Modern,
}

impl Client {
    /// Oldest first.
    pub const ALL: [Self; 5] = [Self::V2024, Self::March, Self::June, Self::November, Self::Modern];

    /// As it stands on the wire.
    pub fn revision(self) -> &'static str {
        match self {
            Self::V2024 => "2024-11-05",
            Self::March => "2025-03-26",
            Self::June => "2025-06-18",
            Self::November => "2025-11-25",
            Self::Modern => "2026-07-28",
        }
    }

    /// The era of its revision.
    pub fn era(self) -> Era {
        if self == Self::Modern { Era::Modern } else { Era::Legacy }
    }
}

/// How one side is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// `initialize` and a session.
    Legacy,
    /// Metadata with each request.
    Modern,
}

/// What the hosted server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// `initialize` only.
    Legacy,
    /// Metadata with each request only.
    Modern,
    /// Either; each client meets a process of its own era.
    Dual,
}

impl Server {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Legacy, Self::Modern, Self::Dual];

    /// The era in which it is spoken to for this client.
    pub fn spoken(self, client: Client) -> Era {
        match self {
            Self::Legacy => Era::Legacy,
            Self::Modern => Era::Modern,
            Self::Dual => client.era(),
        }
    }
}

/// Which callers share a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One for each principal and what its client can do; the default.
    PerPrincipal,
    /// One for each session.
    PerSession,
    /// One for everybody.
    Shared,
    /// A pool with one call at a time in each.
    Exclusive,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::PerPrincipal, Self::PerSession, Self::Shared, Self::Exclusive];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerPrincipal => "per-principal",
            Self::PerSession => "per-session",
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        })
    }
}

macro_rules! features {
    ($($name:ident $title:literal,)*) => {
        /// A feature of the server's side of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Feature { $(#[doc = $title] $name,)* }

        impl Feature {
            /// In the order of the document.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name for people.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

features! {
    Open "opening: name, instructions, capabilities",
    ToolList "list of tools",
    ToolCall "tool calls: text, image, embedded resource, failure",
    Audio "sound in results",
    ResourceLink "links to resources in results",
    Structured "structured content",
    StructuredList "structured content that is no object",
    Resources "resources: list, templates, read",
    NotFound "resource that is not there",
    Prompts "prompts: list, get",
    Completion "completion",
    Pagination "pagination",
    Logging "log messages",
    Progress "progress",
    Cancellation "cancellation",
    ListChanges "changes of the lists",
    Subscription "resource subscriptions",
    Sampling "sampling",
    Form "elicitation, form",
    Url "elicitation, URL",
    Roots "roots",
    Rounds "several questions, at once and one after the other",
    Ping "ping",
    Batch "batches",
    UnknownMethod "unknown and vendor methods",
    UnknownExtension "unknown extensions",
    Resume "resuming a broken stream",
}

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Who calls.
    pub client: Client,
    /// Whom.
    pub server: Server,
    /// What for.
    pub feature: Feature,
    /// How the server is hosted.
    pub mode: Mode,
}

/// What happens in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client sees what a client of the server's own era sees, in its own era's words.
    Exact,
    /// It works, but for this.
    Lossy(Loss),
    /// It does not, and the client is told.
    Refused(Refusal),
}

macro_rules! losses {
    ($($name:ident $words:literal,)*) => {
        /// What is lost.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Loss { $(#[doc = $words] $name,)* }

        impl Loss {
            /// The loss in words.
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

losses! {
    Text "becomes a text: this revision has no such content",
    Wrapped "the list comes as the member `result` of an object, in the schema and in the result",
    NotFoundCode "the code is -32602, where this revision says -32002: the server does not tell them apart",
    OperatorsLog "log messages go to the operator's log: nobody can say whose call they are about",
    Untold "the server is not told of the client's extensions, as it serves everybody",
    OtherProcess "what the server says in its other processes is not heard",
    NoPromise "the server's `listChanged` and `subscribe` are not promised",
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A JSON-RPC error with this code, whose message contains this.
    Error(i64, &'static str),
    /// A tool's result with `isError`, whose text contains this.
    Tool(&'static str),
    /// An HTTP status without a JSON-RPC answer, whose body contains this.
    Http(u16, &'static str),
}

/// An exception from "exact".
#[derive(Debug)]
pub struct Exception {
    /// Where it holds: these clients …
    pub clients: &'static [Client],
    /// … with servers that are spoken to in these eras …
    pub spoken: &'static [Era],
    /// … for these features …
    pub features: &'static [Feature],
    /// … in these modes.
    pub modes: &'static [Mode],
    /// What happens there.
    pub outcome: Outcome,
    /// Why, in a sentence without its end.
    pub why: &'static str,
}

impl Exception {
    fn covers(&self, cell: &Cell) -> bool {
        self.clients.contains(&cell.client)
            && self.spoken.contains(&cell.server.spoken(cell.client))
            && self.features.contains(&cell.feature)
            && self.modes.contains(&cell.mode)
    }
}

const EVERY: &[Mode] = &Mode::ALL;
const SHARED: &[Mode] = &[Mode::Shared];
const EITHER: &[Era] = &[Era::Legacy, Era::Modern];
const LEGACY: &[Era] = &[Era::Legacy];
const MODERN: &[Era] = &[Era::Modern];
const ANYBODY: &[Client] = &Client::ALL;
const SESSIONS: &[Client] = &[Client::V2024, Client::March, Client::June, Client::November];
const STATELESS: &[Client] = &[Client::Modern];
const NO_ELICITATION: &[Client] = &[Client::V2024, Client::March];
const ELICITATION: &[Client] = &[Client::June, Client::November, Client::Modern];
const NO_URLS: &[Client] = &[Client::V2024, Client::March, Client::June];
const URLS: &[Client] = &[Client::November, Client::Modern];

/// Every exception. No two cover the same cell.
pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        clients: &[Client::V2024],
        spoken: EITHER,
        features: &[Feature::Audio],
        modes: EVERY,
        outcome: Outcome::Lossy(Loss::Text),
        why: "sound came with 2025-03-26",
    },
    Exception {
        clients: &[Client::V2024, Client::March],
        spoken: EITHER,
        features: &[Feature::ResourceLink],
        modes: EVERY,
        outcome: Outcome::Lossy(Loss::Text),
        why: "links to resources came with 2025-06-18",
    },
    Exception {
        clients: SESSIONS,
        spoken: MODERN,
        features: &[Feature::StructuredList, Feature::ToolList],
        modes: EVERY,
        outcome: Outcome::Lossy(Loss::Wrapped),
        why: "any JSON as structured content came with 2026-07-28",
    },
    Exception {
        clients: SESSIONS,
        spoken: MODERN,
        features: &[Feature::NotFound],
        modes: EVERY,
        outcome: Outcome::Lossy(Loss::NotFoundCode),
        why: "2026-07-28 gave up the code of its own",
    },
    Exception {
        clients: ANYBODY,
        spoken: EITHER,
        features: &[Feature::Logging],
        modes: SHARED,
        outcome: Outcome::Lossy(Loss::OperatorsLog),
        why: "a log message names no call, and the process works for everybody",
    },
    Exception {
        clients: ANYBODY,
        spoken: LEGACY,
        features: &[Feature::Sampling, Feature::Roots],
        modes: SHARED,
        outcome: Outcome::Refused(Refusal::Tool("the client did not declare")),
        why: "a legacy server's question names no call, so a shared one is told that nobody can be asked",
    },
    Exception {
        clients: ELICITATION,
        spoken: LEGACY,
        features: &[Feature::Form, Feature::Rounds],
        modes: SHARED,
        outcome: Outcome::Refused(Refusal::Tool("the client did not declare elicitation")),
        why: "as sampling",
    },
    Exception {
        clients: URLS,
        spoken: LEGACY,
        features: &[Feature::Url],
        modes: SHARED,
        outcome: Outcome::Refused(Refusal::Tool("the client did not declare elicitation")),
        why: "as sampling",
    },
    Exception {
        clients: NO_ELICITATION,
        spoken: LEGACY,
        features: &[Feature::Form, Feature::Rounds],
        modes: EVERY,
        outcome: Outcome::Refused(Refusal::Tool("the client did not declare elicitation")),
        why: "elicitation came with 2025-06-18; these are the server's own words",
    },
    Exception {
        clients: NO_URLS,
        spoken: LEGACY,
        features: &[Feature::Url],
        modes: EVERY,
        outcome: Outcome::Refused(Refusal::Tool("the client did not declare elicitation")),
        why: "URLs came with 2025-11-25; these are the server's own words",
    },
    Exception {
        clients: NO_ELICITATION,
        spoken: MODERN,
        features: &[Feature::Form, Feature::Rounds],
        modes: EVERY,
        outcome: Outcome::Refused(Refusal::Error(-32603, "this client did not offer")),
        why: "elicitation came with 2025-06-18",
    },
    Exception {
        clients: NO_URLS,
        spoken: MODERN,
        features: &[Feature::Url],
        modes: EVERY,
        outcome: Outcome::Refused(Refusal::Error(-32603, "this client did not offer")),
        why: "URLs came with 2025-11-25",
    },
    Exception {
        clients: ANYBODY,
        spoken: LEGACY,
        features: &[Feature::UnknownExtension],
        modes: SHARED,
        outcome: Outcome::Lossy(Loss::Untold),
        why: "a legacy process hears what its client can do once, so a shared one hears nothing",
    },
    Exception {
        clients: STATELESS,
        spoken: EITHER,
        features: &[Feature::Ping],
        modes: EVERY,
        outcome: Outcome::Refused(Refusal::Error(-32601, "ping")),
        why: "2026-07-28 has no ping",
    },
    Exception {
        clients: &[Client::V2024, Client::June, Client::November, Client::Modern],
        spoken: EITHER,
        features: &[Feature::Batch],
        modes: EVERY,
        outcome: Outcome::Refused(Refusal::Error(-32600, "no batches")),
        why: "only 2025-03-26 has batches",
    },
    Exception {
        clients: STATELESS,
        spoken: EITHER,
        features: &[Feature::Resume],
        modes: EVERY,
        outcome: Outcome::Refused(Refusal::Http(405, "needs the header Mcp-Session-Id")),
        why: "a broken connection takes a modern request back",
    },
    Exception {
        clients: &[Client::V2024],
        spoken: EITHER,
        features: &[Feature::Resume],
        modes: EVERY,
        outcome: Outcome::Refused(Refusal::Http(404, "no such session")),
        why: "over HTTP+SSE the connection is the session, and ends with it",
    },
];

/// What happens in a cell.
pub fn outcome(cell: &Cell) -> Outcome {
    exception(cell).map_or(Outcome::Exact, |exception| exception.outcome)
}

/// The exception that covers a cell.
pub fn exception(cell: &Cell) -> Option<&'static Exception> {
    EXCEPTIONS.iter().find(|exception| exception.covers(cell))
}

/// Every cell.
pub fn cells() -> impl Iterator<Item = Cell> {
    let of = |client, server, feature| Mode::ALL.into_iter().map(move |mode| Cell { client, server, feature, mode });
    Client::ALL.into_iter().flat_map(move |client| {
        let servers = Server::ALL.into_iter();
        servers.flat_map(move |server| Feature::ALL.iter().flat_map(move |feature| of(client, server, *feature)))
    })
}

#[cfg(test)]
mod tests {
    use super::{EXCEPTIONS, Feature, cells};

    #[test]
    fn every_cell_is_decided_once() {
        assert_eq!(cells().count(), 5 * 3 * 4 * Feature::ALL.len());
        for cell in cells() {
            let deciding: Vec<_> = EXCEPTIONS.iter().filter(|exception| exception.covers(&cell)).collect();
            assert!(deciding.len() <= 1, "{cell:?} is decided by {deciding:#?}");
        }
    }

    #[test]
    fn every_exception_decides_something() {
        for exception in EXCEPTIONS {
            assert!(cells().any(|cell| exception.covers(&cell)), "{exception:#?}");
            assert!(!exception.why.ends_with('.'), "{exception:#?}");
        }
    }
}
