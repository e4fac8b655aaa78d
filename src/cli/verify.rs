//! `staticfire store verify`.

use serde_json::{Value, json};
use staticfire::replication::control_topic;
use staticfire::storage::DispatchRules;
use staticfire::storage::disk::RealDirectory;
use staticfire::storage::verify::{Severity, VerifyReport, verify_with};

use super::Failure;
use super::arguments::VerifyArguments;

pub fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let place = arguments.directory.display();
    let not_started = |error: &dyn std::fmt::Display| Failure::not_started(format!("{place}: {error}"));
    let directory = RealDirectory::open_read_only(&arguments.directory).map_err(|e| not_started(&e))?;
    let rules = DispatchRules { system_topic: Some(control_topic()), ..DispatchRules::default() };
    let report = verify_with(&directory, &rules).map_err(|e| not_started(&e))?;
    if arguments.json {
        println!("{}", report_json(&report));
    } else {
        println!("{report}");
    }
    if report.is_sound() { Ok(()) } else { Err(Failure::not_well(format!("{place}: the store is damaged"))) }
}

fn report_json(report: &VerifyReport) -> Value {
    let findings = report.findings.iter().map(|finding| {
        let severity = match finding.severity {
            Severity::Damage => "damage",
            Severity::Leftover => "leftover",
        };
        let problem = finding.problem.to_string();
        json!({ "severity": severity, "file": finding.file, "offset": finding.at, "problem": problem })
    });
    json!({
        "sound": report.is_sound(),
        "closed": report.closed,
        "log_start": report.log.start.0,
        "log_end": report.log.end.0,
        "records": report.records,
        "queues": report.queues,
        "entries": report.entries,
        "findings": findings.collect::<Vec<_>>(),
        "omitted": report.omitted,
    })
}
