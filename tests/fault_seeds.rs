//! Random fault plans and the fault matrix, by the command that documents them.
#![allow(clippy::unwrap_used)]

use std::process::Command;

fn bench(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_endplate"))
        .args(["bench", "faults", "--json", "-"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn two_hundred_random_fault_plans_break_no_property() {
    let row: serde_json::Value = serde_json::from_str(&bench(&["--seeds", "200"])).unwrap();
    assert_eq!((&row["seeds"], &row["broken"]), (&200.into(), &0.into()));
    // A judge that saw nothing go wrong would prove nothing.
    for rung in ["fresh", "continued", "decelerated", "held", "stopped"] {
        assert!(row[rung].as_u64().unwrap() > 200, "{rung} hardly happened: {row}");
    }
}

#[test]
fn every_fault_ends_on_the_rung_the_design_gives_it() {
    assert_eq!(bench(&["--matrix"]).lines().count(), 18);
}

/// The error line of a run that must be refused.
fn refused(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_endplate")).args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} was taken");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn rows_given_to_bins_that_were_not_trained_for_it_are_warned_of() {
    let bins = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/bundles/pick_cube_bins");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_endplate"));
        let output = command.args(["run", "--episodes", "1", "--bundle", bins]).args(more).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(&["--handover", "prefix"]).contains("pick-cube-bins was trained to doubt"));
    assert!(!run(&["--handover", "rtc"]).contains("trained"));
}

#[test]
fn plans_and_handovers_that_make_no_sense_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.txt");
    std::fs::write(&plan, "# a comment\nestop@1\ncamera_dorp:front@2 # here\n").unwrap();
    let plan = plan.to_str().unwrap();
    for (arguments, words) in [
        (["--fault-plan", plan], ["line 3", "camera_dorp"]),
        (["--fault-plan", "random:x"], ["random:x", "whole number"]),
        (["--handover", "swich"], ["swich", "switch, blend, ensemble, rtc"]),
        (["--handover", "prefix"], ["pick-cube-fast", "use `rtc`"]),
        (["--handover", "ensemble:ask=executed"], ["pick-cube-fast", "ask=each_row"]),
        (["--handover", "naive_asynchronous"], ["baseline", "evaluate"]),
        (["--handover", "switch:ask=99_rows"], ["16 rows", "15 or fewer"]),
    ] {
        let error = refused(&[&["run", "--episodes", "1"][..], &arguments].concat());
        for word in words {
            assert!(error.contains(word), "{arguments:?}: {word:?} is not in {error}");
        }
    }
}

#[test]
fn a_drawn_plan_and_a_handover_run_with_the_real_policy() {
    let output = Command::new(env!("CARGO_BIN_EXE_endplate"))
        .args(["run", "--episodes", "1", "--fault-plan", "random:3", "--handover", "rtc:ask=every"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
