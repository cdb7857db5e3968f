//! The ledger in `status`. "Tamper-proof" is said of what a quorum of witnesses cosigned lately, and of nothing else.

use super::{age, clean, span};
use model::report::{LedgerReport, WitnessReport};

/// Its lines, each with its name.
pub(super) fn lines(report: &LedgerReport, now_ms: i64) -> Vec<(&'static str, String)> {
    let signed = match (report.signed, report.signed_at_ms) {
        (Some(signed), Some(at)) => format!("checkpoint of {signed} signed {} ago", age(now_ms, at)),
        _ => "no checkpoint of this daemon yet".to_owned(),
    };
    let calls = if report.calls { "" } else { "; calls are not recorded" };
    let mut lines = vec![("ledger", format!("{}, {} entries, {signed}{calls}", clean(&report.origin), report.entries))];
    if let Some(why) = &report.refusing {
        lines.push(("", format!("REFUSING: {}; calls are refused", clean(why))));
    }
    if let Some(why) = &report.unrecorded {
        lines.push((
            "",
            format!("NOT RECORDING: {}; calls are made without records, as `ledger.on_full` says", clean(why)),
        ));
    }
    if report.refused > 0 {
        lines.push(("", format!("records refused so far: {}", report.refused)));
    }
    match &report.witnesses {
        None => lines.push(("", "tamper-evident: no witnesses are asked".to_owned())),
        Some(witnesses) => {
            lines.push(("witnesses", word(witnesses)));
            lines.extend(witnesses.troubles.iter().map(|trouble| ("", clean(trouble))));
        }
    }
    lines
}

fn word(report: &WitnessReport) -> String {
    let (Some(entries), Some(age_ms)) = (report.entries, report.age_ms) else {
        return format!("tamper-evident: no quorum of {} has cosigned yet", report.asked);
    };
    let by = report.cosigned.map_or_else(|| "a quorum".to_owned(), |by| format!("{by} of {}", report.asked));
    let cosigned = format!("cosigned {} ago by {by}", span(i64::try_from(age_ms).unwrap_or(i64::MAX)));
    match (report.alarm, report.stale) {
        (true, _) => format!("ALARM, see below; {entries} entries {cosigned}"),
        (false, true) => format!("tamper-evident: stale, {entries} entries {cosigned}"),
        (false, false) => format!("tamper-proof up to {entries}: {cosigned}"),
    }
}

#[cfg(test)]
mod tests {
    use super::lines;
    use model::report::{LedgerReport, WitnessReport};

    fn text(witnesses: Option<WitnessReport>, refusing: Option<&str>) -> String {
        let report = LedgerReport {
            origin: "a/log".to_owned(),
            calls: true,
            entries: 9,
            signed: Some(8),
            signed_at_ms: Some(1000),
            refusing: refusing.map(str::to_owned),
            unrecorded: None,
            refused: 0,
            witnesses,
        };
        lines(&report, 3000).into_iter().map(|(name, value)| format!("{name}|{value}\n")).collect()
    }

    #[test]
    fn tamper_proof_is_said_of_a_fresh_quorum_alone() {
        let fresh = WitnessReport {
            asked: 3,
            cosigned: Some(2),
            entries: Some(7),
            age_ms: Some(3400),
            stale: false,
            alarm: false,
            troubles: vec!["http://w: away\u{1b}".to_owned()],
        };
        let said = text(Some(fresh.clone()), None);
        assert!(
            said.contains("tamper-proof up to 7: cosigned 3 s ago by 2 of 3\n") && said.contains("|http://w: away ")
        );
        for other in [
            None,
            Some(WitnessReport { stale: true, ..fresh.clone() }),
            Some(WitnessReport { alarm: true, ..fresh.clone() }),
            Some(WitnessReport { entries: None, age_ms: None, ..fresh }),
        ] {
            let said = text(other.clone(), None);
            assert!(!said.contains("tamper-proof"), "{other:?}: {said}");
        }
        assert!(text(None, Some("full")).contains("REFUSING: full; calls are refused"));
        assert!(text(None, None).starts_with("ledger|a/log, 9 entries, checkpoint of 8 signed 2 s ago\n"));
    }
}
