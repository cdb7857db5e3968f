//! There and back: what both eras can say survives the way through the other one. (eras §2.3)

#[cfg(test)]
mod tests {
    use crate::bridge::{self, CLIENT_CAPABILITIES, CLIENT_INFO, Leg, Stated, VERSION};
    use crate::code;
    use crate::era::{Era, Revision};
    use crate::message::Message;
    use crate::method;
    use crate::scan::{Limits, Side};
    use crate::shape;
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 96 };
    const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    /// What an era says for itself: never part of what both can say.
    const OF_AN_ERA: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

    /// Every method that requests of both eras have.
    const METHODS: [&str; 8] = [
        "tools/list",
        "tools/call",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "completion/complete",
    ];

    fn parsed(text: &str, from: Side) -> Option<Message> {
        Message::parse(Bytes::copy_from_slice(text.as_bytes()), from, &LIMITS).ok()
    }

    /// Texts are compared as values, but never written from them: a number must keep its spelling.
    fn value(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    /// Absent and empty are one: an era's members need a place, which stays empty without them.
    fn normal(text: &str, inside: &str) -> Value {
        let mut message = value(text);
        let body = message.as_object_mut().unwrap().entry(inside).or_insert_with(|| json!({}));
        if let Some(body) = body.as_object_mut()
            && let Some(meta) = body.get_mut("_meta").and_then(Value::as_object_mut)
        {
            meta.remove(SERVER_INFO);
            if meta.is_empty() {
                body.remove("_meta");
            }
        }
        message
    }

    fn request(text: &str, leg: Leg, id: u64, stated: Option<&Stated<'_>>) -> Option<String> {
        let mut line = Vec::new();
        bridge::request_line(&mut line, &parsed(text, Side::Client)?, leg, id, stated);
        String::from_utf8(line).ok()
    }

    /// A success or failure of a server, as the client of the other era gets it.
    fn response(text: &str, leg: Leg, method: &str) -> Option<String> {
        let mut answer = parsed(text, Side::Server)?;
        if leg == Leg::LegacyToModern {
            answer = shape::result(&answer, method, Era::Modern, Revision::V20251125, false).unwrap_or(answer);
        }
        let info = br#"{"name":"s","version":"1"}"#;
        String::from_utf8(bridge::response(&answer, leg, b"1", method, Some(info)).body).ok()
    }

    fn meta() -> impl Strategy<Value = Value> {
        let token = prop_oneof![Just(None), Just(Some(json!(0))), Just(Some(json!(""))), Just(Some(json!("t")))];
        (token, prop::option::of("[a-z]{1,8}"), prop::option::of(crate::scan::tests::json())).prop_map(
            |(token, trace, vendor)| {
                let mut meta = Map::new();
                meta.extend(token.map(|token| ("progressToken".to_owned(), token)));
                meta.extend(trace.map(|trace| ("traceparent".to_owned(), json!(trace))));
                meta.extend(vendor.map(|vendor| ("com.example/x".to_owned(), vendor)));
                Value::Object(meta)
            },
        )
    }

    /// Params of any method: members that the protocol knows, and others.
    fn params() -> impl Strategy<Value = Map<String, Value>> {
        let json = crate::scan::tests::json;
        (
            prop::option::of(json()),
            "\\PC{0,10}",
            prop::option::of("[a-z:/]{1,9}"),
            prop::option::of(json()),
            prop::option::of(meta()),
        )
            .prop_map(|(arguments, name, uri, vendor, meta)| {
                let mut params = Map::new();
                params.insert("name".to_owned(), json!(name));
                params.extend(arguments.map(|arguments| ("arguments".to_owned(), arguments)));
                params.extend(uri.map(|uri| ("uri".to_owned(), json!(uri))));
                params.extend(vendor.map(|vendor| ("vendor-thing".to_owned(), vendor)));
                params.extend(meta.map(|meta| ("_meta".to_owned(), meta)));
                params
            })
    }

    /// A result of any method in words of both eras.
    fn result() -> impl Strategy<Value = Map<String, Value>> {
        let json = crate::scan::tests::json;
        let text = json!({"type":"text","text":"t"});
        let tool = json!({"name":"n","inputSchema":{"type":"object"},"outputSchema":{"type":"object"},"icons":[],"_meta":{"k":1}});
        let members = prop::collection::btree_map("[a-z]{1,6}", json(), 0..4);
        let structured = prop::option::of(prop::collection::btree_map("[a-z]{0,4}", json(), 0..3));
        (members, structured, prop::option::of(json()), any::<bool>()).prop_map(
            move |(members, structured, vendor, listed)| {
                let mut result: Map<String, Value> = members.into_iter().collect();
                OF_AN_ERA.iter().for_each(|name| drop(result.remove(*name)));
                result.insert(
                    "content".to_owned(),
                    json!([text, {"type":"audio"}, {"type":"resource_link","uri":"a:b"}]),
                );
                result.extend(structured.map(|structured| ("structuredContent".to_owned(), json!(structured))));
                result.extend(vendor.map(|vendor| ("_meta".to_owned(), json!({"com.example/x":vendor}))));
                if listed {
                    result.insert("tools".to_owned(), json!([tool]));
                    result.insert("nextCursor".to_owned(), json!("c"));
                }
                result
            },
        )
    }

    fn error() -> impl Strategy<Value = Value> {
        let special = [
            code::RESOURCE_NOT_FOUND,
            code::URL_ELICITATION_REQUIRED,
            code::HEADER_MISMATCH,
            code::MISSING_CAPABILITY,
            code::UNSUPPORTED_VERSION,
        ];
        let code = prop_oneof![-32768_i64..-31999, any::<i64>()]
            .prop_filter("means the same in both eras", move |code| !special.contains(code));
        (code, "\\PC{0,12}", prop::option::of(crate::scan::tests::json())).prop_map(|(code, message, data)| {
            let mut error = json!({"code":code,"message":message});
            if let Some(data) = data {
                error["data"] = data;
            }
            error
        })
    }

    proptest! {
        #[test]
        fn a_legacy_request_survives_the_modern_era(method in prop::sample::select(&METHODS[..]), params in prop::option::of(params())) {
            let mut given = json!({"jsonrpc":"2.0","id":"a","method":method});
            if let Some(params) = params {
                given["params"] = Value::Object(params);
            }
            let given = given.to_string();
            let stated = Stated { capabilities: b"{}", client_info: b"{}", log_level: Some("info") };
            let Some(modern) = request(&given, Leg::LegacyToModern, 7, Some(&stated)) else { return Err(TestCaseError::reject("no message")) };
            prop_assert_eq!(&value(&modern)["params"]["_meta"][VERSION], "2026-07-28");
            let back = request(&modern, Leg::ModernToLegacy, 7, None).unwrap();
            let same_era = request(&given, Leg::LegacyToLegacy, 7, None).unwrap();
            prop_assert_eq!(normal(&back, "params"), normal(&same_era, "params"));
        }

        #[test]
        fn a_modern_request_survives_the_legacy_era(
            method in prop::sample::select(&METHODS[..]),
            mut params in params(),
            level in prop::option::of(Just("debug")),
        ) {
            let capabilities = json!({"sampling":{"tools":{}},"elicitation":{},"extensions":{"v/x":{}}});
            let info = json!({"name":"c","version":"1"});
            let meta = params.entry("_meta").or_insert_with(|| json!({}));
            meta[VERSION] = json!("2026-07-28");
            meta[CLIENT_CAPABILITIES] = capabilities.clone();
            meta[CLIENT_INFO] = info.clone();
            if let Some(level) = level {
                meta[LOG_LEVEL] = json!(level);
            }
            let given = json!({"jsonrpc":"2.0","id":1,"method":method,"params":params}).to_string();
            let Some(legacy) = request(&given, Leg::ModernToLegacy, 7, None) else { return Err(TestCaseError::reject("no message")) };
            prop_assert!(value(&legacy)["params"]["_meta"].as_object().is_none_or(|meta| !meta.contains_key(VERSION)));
            let (capabilities, info) = (capabilities.to_string(), info.to_string());
            let stated = Stated { capabilities: capabilities.as_bytes(), client_info: info.as_bytes(), log_level: level };
            let back = request(&legacy, Leg::LegacyToModern, 7, Some(&stated)).unwrap();
            prop_assert_eq!(value(&back), value(&request(&given, Leg::ModernToModern, 7, None).unwrap()));
        }

        #[test]
        fn a_legacy_result_survives_the_modern_era(method in prop::sample::select(&METHODS[..]), result in result()) {
            let given = json!({"jsonrpc":"2.0","id":1,"result":result}).to_string();
            let Some(modern) = response(&given, Leg::ModernToLegacy, method) else { return Err(TestCaseError::reject("no message")) };
            prop_assert_eq!(&value(&modern)["result"]["resultType"], "complete");
            let back = response(&modern, Leg::LegacyToModern, method).unwrap();
            prop_assert_eq!(normal(&back, "result"), normal(&given, "result"));
        }

        #[test]
        fn a_modern_result_survives_the_legacy_era(method in prop::sample::select(&METHODS[..]), mut result in result()) {
            result.insert("resultType".to_owned(), json!("complete"));
            if method::find(method).is_some_and(|row| row.cacheable) {
                result.insert("ttlMs".to_owned(), json!(0));
                result.insert("cacheScope".to_owned(), json!("private"));
            }
            let given = json!({"jsonrpc":"2.0","id":1,"result":result}).to_string();
            let Some(legacy) = response(&given, Leg::LegacyToModern, method) else { return Err(TestCaseError::reject("no message")) };
            let shown = value(&legacy);
            prop_assert!(OF_AN_ERA.iter().all(|name| shown["result"].get(name).is_none()));
            let back = response(&legacy, Leg::ModernToLegacy, method).unwrap();
            prop_assert_eq!(normal(&back, "result"), normal(&given, "result"));
        }

        #[test]
        fn b30_an_error_survives_either_era(method in prop::sample::select(&METHODS[..]), error in error()) {
            let given = json!({"jsonrpc":"2.0","id":1,"error":error}).to_string();
            for (there, back) in [(Leg::ModernToLegacy, Leg::LegacyToModern), (Leg::LegacyToModern, Leg::ModernToLegacy)] {
                let Some(other) = response(&given, there, method) else { return Err(TestCaseError::reject("no message")) };
                prop_assert_eq!(value(&response(&other, back, method).unwrap()), value(&given));
            }
        }
    }
}
