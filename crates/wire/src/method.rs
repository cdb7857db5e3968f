//! The table of methods: which era knows which, which carry a name header, which are cacheable. (eras appendix A)

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// As it stands on the wire.
    pub name: &'static str,
    /// A legacy revision has it.
    pub legacy: bool,
    /// The core of 2026-07-28 has it. Extension methods such as `tasks/get` are not core: a modern server answers for itself.
    pub modern: bool,
    /// The member of `params` that `Mcp-Name` mirrors.
    pub name_param: Option<&'static str>,
    /// Its complete result carries ttlMs and cacheScope.
    pub cacheable: bool,
    /// Its result may be `input_required`.
    pub multi_round: bool,
}

/// The row of a client's request method.
pub fn find(name: &str) -> Option<&'static Method> {
    TABLE.iter().find(|row| row.name == name)
}

/// Whether 2026-07-28 took this method out of the core: with modern metadata it is an unknown method. (E91)
pub fn removed(name: &str) -> bool {
    matches!(name, "initialize" | "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe")
}

/// The table's own spelling of a method or notification, so that a message need not keep a copy.
pub(crate) fn intern(name: &str) -> Option<&'static str> {
    let method = find(name).map(|row| row.name);
    method.or_else(|| NOTIFICATIONS.iter().copied().find(|known| *known == name))
}

const NEITHER: Method =
    Method { name: "", legacy: false, modern: false, name_param: None, cacheable: false, multi_round: false };
const LEGACY: Method = Method { legacy: true, ..NEITHER };
const MODERN: Method = Method { modern: true, ..NEITHER };
const BOTH: Method = Method { legacy: true, modern: true, ..NEITHER };

const TABLE: [Method; 20] = [
    Method { name: "tools/call", name_param: Some("name"), multi_round: true, ..BOTH },
    Method { name: "tools/list", cacheable: true, ..BOTH },
    Method { name: "resources/read", name_param: Some("uri"), cacheable: true, multi_round: true, ..BOTH },
    Method { name: "resources/list", cacheable: true, ..BOTH },
    Method { name: "resources/templates/list", cacheable: true, ..BOTH },
    Method { name: "prompts/get", name_param: Some("name"), multi_round: true, ..BOTH },
    Method { name: "prompts/list", cacheable: true, ..BOTH },
    Method { name: "completion/complete", ..BOTH },
    Method { name: "server/discover", cacheable: true, ..MODERN },
    Method { name: "subscriptions/listen", ..MODERN },
    Method { name: "initialize", ..LEGACY },
    Method { name: "ping", ..LEGACY },
    Method { name: "logging/setLevel", ..LEGACY },
    Method { name: "resources/subscribe", ..LEGACY },
    Method { name: "resources/unsubscribe", ..LEGACY },
    Method { name: "tasks/get", name_param: Some("taskId"), ..LEGACY },
    Method { name: "tasks/cancel", name_param: Some("taskId"), ..LEGACY },
    Method { name: "tasks/list", ..LEGACY },
    Method { name: "tasks/result", ..LEGACY },
    Method { name: "tasks/update", name_param: Some("taskId"), ..NEITHER },
];

const NOTIFICATIONS: [&str; 12] = [
    "notifications/progress",
    "notifications/message",
    "notifications/cancelled",
    "notifications/initialized",
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/roots/list_changed",
    "notifications/elicitation/complete",
    "notifications/tasks/status",
    "notifications/subscriptions/acknowledged",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e180_six_results_are_cacheable() {
        let names: Vec<_> = TABLE.iter().filter(|row| row.cacheable).map(|row| row.name).collect();
        assert_eq!(names.len(), 6);
        assert!(names.contains(&"server/discover") && names.contains(&"resources/read"));
    }

    #[test]
    fn e165_three_methods_may_ask_back() {
        let names: Vec<_> = TABLE.iter().filter(|row| row.multi_round).map(|row| row.name).collect();
        assert_eq!(names, ["tools/call", "resources/read", "prompts/get"]);
    }

    #[test]
    fn e50_e218_the_name_header_mirrors_these() {
        let mirrored = |name| find(name).and_then(|row| row.name_param);
        for (method, param) in [("tools/call", "name"), ("prompts/get", "name"), ("resources/read", "uri")] {
            assert_eq!(mirrored(method), Some(param));
        }
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            assert_eq!(mirrored(method), Some("taskId"));
        }
        assert_eq!(mirrored("tools/list"), None);
    }

    #[test]
    fn e91_removed_methods_are_legacy_only() {
        let removed: Vec<_> = TABLE.iter().filter(|row| removed(row.name)).collect();
        assert_eq!(removed.len(), 5);
        assert!(removed.iter().all(|row| row.legacy && !row.modern));
    }

    #[test]
    fn names_are_unique_and_exact() {
        for row in &TABLE {
            assert_eq!(TABLE.iter().filter(|other| other.name == row.name).count(), 1);
        }
        assert!(find("Tools/Call").is_none() && find("").is_none() && find("vendor/thing").is_none());
        assert_eq!(intern("notifications/progress"), Some("notifications/progress"));
    }
}
