//! Shapes that one revision has and another has not: schemas, structured content, content. (B3, B25, B26)

use crate::scan::{self, Kind, Span};

/// Whether a tool's `outputSchema` describes something else than an object, which legacy revisions do not have. (B25)
pub(crate) fn wraps(bytes: &[u8], tool: Span) -> bool {
    let Some((schema, kind)) = scan::member(bytes, tool, "outputSchema") else { return false };
    match kind {
        Kind::Null => false,
        Kind::Object => {
            let declared = scan::member(bytes, schema, "type");
            !declared.is_some_and(|(span, kind)| kind == Kind::String && scan::text(bytes, span) == "object")
        }
        // `true` and `false` are schemas as well.
        _ => true,
    }
}
