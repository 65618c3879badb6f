//! What is wrong with a bundle is named, and nothing wrong is loaded.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Copy, bundle_path, bundle_paths, engines};
use endplate_hal::{RobotSpec, robots};
use endplate_policies::bundle::{FamilySpec, Mismatch};
use endplate_policies::{Bundle, BundleError, BundleSource, EngineChoice, LoadError, check_robot, load_policy};

fn open(copy: &Copy) -> Result<Bundle, BundleError> {
    Bundle::open(BundleSource::Directory(copy.path()))
}

fn refusal(copy: &Copy) -> BundleError {
    open(copy).map(drop).unwrap_err()
}

/// The bundle opens, and loading it on every engine gives this error.
fn load_refusals(copy: &Copy) -> Vec<(&'static str, LoadError)> {
    let bundle = open(copy).unwrap();
    engines().into_iter().map(|(name, choice)| (name, load_policy(&bundle, choice).map(drop).unwrap_err())).collect()
}

#[test]
fn a_bundle_opens_and_its_digest_is_that_of_its_description() {
    let bundle = Bundle::open(BundleSource::Directory(bundle_path())).unwrap();
    let copy = Copy::new();
    assert_eq!(open(&copy).unwrap().digest(), bundle.digest());
    copy.edit(|text| text.replace("[budget]", "[budget] # slower than it looks"));
    assert_ne!(open(&copy).unwrap().digest(), bundle.digest());
    assert_eq!(bundle.digest().len(), 64);
}

#[test]
fn a_changed_missing_or_extra_file_is_named() {
    let copy = Copy::new();
    let mut onnx = copy.read("vision.onnx");
    let middle = onnx.len() / 2;
    onnx[middle] ^= 1;
    copy.write("vision.onnx", &onnx);
    assert!(matches!(refusal(&copy), BundleError::Digest { file, .. } if file == "vision.onnx"));
    let copy = Copy::new();
    copy.remove("text/tokenizer.json");
    assert!(matches!(refusal(&copy), BundleError::Read { file, .. } if file == "text/tokenizer.json"));
    let copy = Copy::new();
    copy.write("tokenizer/notes.txt", b"mine");
    assert!(matches!(refusal(&copy), BundleError::Unlisted { file } if file == "tokenizer/notes.txt"));
}

#[test]
fn keys_and_values_that_cannot_be_are_named_with_a_remedy() {
    type Edit = (&'static str, fn(&str) -> String, &'static [&'static str]);
    let edits: [Edit; 13] = [
        (
            "an unknown key",
            |t| t.replace("[decoding]", "[decoding]\ntemperature = 1.0"),
            &["policy.toml", "temperature"],
        ),
        ("another format", |t| t.replacen("format = 1", "format = 2", 1), &["format = 2", "export"]),
        ("a missing quantile", |t| without(t, "q99 ="), &["q99"]),
        ("a NaN quantile", |t| replace_line(t, "q01 =", "q01 = nan"), &["state[0] (shoulder_pan)", "NaN", "finite"]),
        ("quantiles out of order", |t| replace_line(t, "q01 =", "q01 = 1e9"), &["state[0] (shoulder_pan)", "in order"]),
        (
            "an action kind that is not built",
            |t| t.replacen("\"joint_rel\"", "\"base_vel\"", 1),
            &["action[0].kind = base_vel", "not built"],
        ),
        (
            "an averaged gripper",
            |t| t.replace("blending = \"latch\"", "blending = \"average\""),
            &["action[5].blending", "latch"],
        ),
        (
            "an unknown resize",
            |t| t.replacen("bilinear_antialiased", "lanczos", 1),
            &["cameras[0].resize = lanczos", "bilinear"],
        ),
        ("two cameras of one name", |t| t.replace("\"wrist\"", "\"front\""), &["cameras.name", "front"]),
        (
            "a relative action without its joint",
            |t| t.replacen("name = \"elbow_flex\"", "name = \"elbow\"", 1),
            &["action[2].name", "elbow_flex"],
        ),
        (
            "more rows than there are",
            |t| replace_line(t, "execute_rows =", "execute_rows = 17"),
            &["chunk.execute_rows = 17", "16"],
        ),
        ("a slab of another size", |t| replace_line(t, "slab =", "slab = 7"), &["model.slab = 7", "max_tokens"]),
        (
            "a path out of the bundle",
            |t| t.replace("\"vision.onnx\" =", "\"../vision.onnx\" ="),
            &["files = ../vision.onnx", "relative"],
        ),
    ];
    for (what, edit, words) in edits {
        let copy = Copy::new();
        copy.edit(edit);
        let error = refusal(&copy).to_string();
        for word in words {
            assert!(error.contains(word), "{what}: {word:?} is not in {error}");
        }
    }
}

#[test]
fn a_key_of_another_family_is_refused_with_what_to_write() {
    let [_, bins, flow] = &bundle_paths()[..] else { return };
    type Edit = (fn(&str) -> String, &'static [&'static str]);
    let of_bins: [Edit; 4] = [
        (|t| t.replace("count = 256", "count = 128"), &["bins.count = 128", "256"]),
        (|t| t.replace("scheme = \"openvla\"", "scheme = \"digits\""), &["bins.scheme = digits", "openvla"]),
        (|t| replace_line(t, "horizon =", "horizon = 9"), &["model.max_tokens = 48", "54"]),
        (
            |t| t.replace("[bins]", "[flow]\nsteps = 1\ntime = \"per_row\"\nmax_prefix_rows = 1\n[bins]"),
            &["[flow] = given"],
        ),
    ];
    let of_flow: [Edit; 5] = [
        (|t| replace_line(t, "steps =", "steps = 0"), &["flow.steps = 0", "between 1"]),
        (|t| replace_line(t, "max_prefix_rows =", "max_prefix_rows = 16"), &["flow.max_prefix_rows = 16", "fewer"]),
        (|t| replace_line(t, "time =", "time = \"per_chunk\""), &["flow.time = per_chunk", "per_row"]),
        (|t| t.replace("step_ms", "token_ms"), &["budget.token_ms", "write step_ms"]),
        (|t| t.replacen("velocity =", "logits =", 1), &["logits", "velocity"]),
    ];
    for (bundle, edits) in [(bins, &of_bins[..]), (flow, &of_flow[..])] {
        for (edit, words) in edits {
            let copy = Copy::of(bundle);
            copy.edit(edit);
            let error = refusal(&copy).to_string();
            for word in *words {
                assert!(error.contains(word), "{word:?} is not in {error}");
            }
        }
    }
}

fn replace_line(text: &str, start: &str, line: &str) -> String {
    let old = text.lines().find(|l| l.starts_with(start)).unwrap();
    text.replacen(&format!("{old}\n"), &format!("{line}\n"), 1)
}

fn without(text: &str, start: &str) -> String {
    let old = text.lines().find(|l| l.starts_with(start)).unwrap();
    text.replacen(&format!("{old}\n"), "", 1)
}

#[test]
fn a_family_strategy_or_engine_that_is_not_there_is_refused_by_name() {
    let copy = Copy::new();
    copy.set("family", "\"gr00t\"");
    let error = refusal(&copy).to_string();
    assert!(error.contains("family = gr00t") && error.contains("pi0_fast, bins, flow"), "{error}");
    let copy = Copy::new();
    copy.set("family", "\"flow\"");
    assert!(refusal(&copy).to_string().contains("[decoding] = given"));
    let copy = Copy::new();
    copy.set("strategy", "\"psychic\"");
    assert!(refusal(&copy).to_string().contains("decoding.strategy = psychic"));
    let copy = Copy::new();
    copy.edit(|t| t.replacen("\ntract = {", "\nabacus = {", 1));
    let error = load_policy(&open(&copy).unwrap(), EngineChoice::Tract).map(drop).unwrap_err();
    assert!(
        matches!(&error, LoadError::Undeclared { engine: "tract", declared } if declared.contains(&"abacus".into())),
        "{error}"
    );
}

#[test]
fn graphs_that_do_not_match_the_description_are_named_with_the_tensor() {
    // One more text token than the graphs have room for: consistent in itself.
    let copy = Copy::new();
    let bundle = open(&copy).unwrap();
    let FamilySpec::Pi0Fast(tokens) = bundle.spec().family else { panic!("the demonstration is pi0_fast") };
    let (prefix, slab) = (tokens.prefix.model.prefix, tokens.slab);
    copy.set("prefix", &(prefix + 1).to_string());
    copy.set("slab", &(slab + 1).to_string());
    for (engine, error) in load_refusals(&copy) {
        let text = error.to_string();
        assert!(text.contains("prefill.onnx") && text.contains(&format!("[1, {}, ", prefix + 1)), "{engine}: {text}");
    }
    // A graph in the place of another.
    let copy = Copy::new();
    copy.replace("decode_k1.onnx", &copy.read("prefill.onnx"));
    for (engine, error) in load_refusals(&copy) {
        assert!(error.to_string().contains("decode_k1.onnx"), "{engine}: {error}");
    }
    let copy = Copy::new();
    let FamilySpec::Pi0Fast(tokens) = open(&copy).unwrap().spec().family else {
        panic!("the demonstration is pi0_fast")
    };
    let vocabulary = tokens.prefix.model.vocabulary;
    copy.set("vocabulary", &(vocabulary + 1).to_string());
    for (engine, error) in load_refusals(&copy) {
        let text = error.to_string();
        assert!(text.contains("weights.safetensors") && text.contains("embedding"), "{engine}: {text}");
    }
}

#[test]
fn damaged_graphs_and_weights_are_refused_although_their_digests_fit() {
    let copy = Copy::new();
    let onnx = copy.read("prefill.onnx");
    copy.replace("prefill.onnx", &onnx[..onnx.len() / 3]);
    for (engine, error) in load_refusals(&copy) {
        assert!(error.to_string().contains("prefill.onnx"), "{engine}: {error}");
    }
    // The weights end too early: whatever is missing is named.
    let copy = Copy::new();
    let weights = copy.read("weights.safetensors");
    copy.replace("weights.safetensors", &weights[..weights.len() - 1000]);
    for (engine, error) in load_refusals(&copy) {
        assert!(
            error.to_string().contains("weights.safetensors") || error.to_string().contains(".onnx"),
            "{engine}: {error}"
        );
    }
    let copy = Copy::new();
    copy.replace("golden.npz", b"PK nothing");
    for (engine, error) in load_refusals(&copy) {
        assert!(error.to_string().contains("golden.npz"), "{engine}: {error}");
    }
}

#[test]
fn other_weights_do_not_reproduce_the_golden_outputs() {
    let copy = Copy::new();
    let mut weights = copy.read("weights.safetensors");
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize + 8;
    // Every fp16 weight loses its sign: finite, plausible, wrong.
    for byte in weights[header..].iter_mut().skip(1).step_by(2) {
        *byte &= 0x7f;
    }
    copy.replace("weights.safetensors", &weights);
    for (engine, error) in load_refusals(&copy) {
        assert!(matches!(error, LoadError::GoldenDiffers { .. }), "{engine}: {error}");
        println!("{engine}: {error}");
    }
    // A tolerance that no other implementation meets shows that the numbers are really compared.
    let copy = Copy::new();
    copy.edit(|t| {
        let line = |engine: &str| format!("\n{engine} = {{ visual = 1.0, logits = 0.0, action_rad = 1.0 }}");
        let old = |engine: &str| format!("\n{}", t.lines().find(|l| l.starts_with(&format!("{engine} = {{"))).unwrap());
        t.replace(&old("tract"), &line("tract")).replace(&old("ort"), &line("ort"))
    });
    for (engine, error) in load_refusals(&copy) {
        assert!(
            matches!(error, LoadError::GoldenDiffers { what: "a logit after the prefix", .. }),
            "{engine}: {error}"
        );
        println!("{engine}: {error}");
    }
}

#[test]
fn a_policy_and_a_robot_that_differ_are_compared_by_name() {
    let bundle = Bundle::open(BundleSource::Directory(bundle_path())).unwrap();
    let robot = |text: &str| RobotSpec::from_toml_str(text, "robot.toml").unwrap();
    assert_eq!(check_robot(bundle.spec(), &robot(robots::SO101_SIM)), []);

    let found = check_robot(bundle.spec(), &robot(&robots::SO101_SIM.replace("\"elbow_flex\"", "\"elbow\"")));
    assert!(
        found.iter().all(|m| matches!(m, Mismatch::NoSuchJoint { joint, .. } if joint == "elbow_flex")),
        "{found:?}"
    );
    assert_eq!(found.len(), 2);

    let found = check_robot(bundle.spec(), &robot(&robots::SO101_SIM.replace("name = \"wrist\"", "name = \"hand\"")));
    assert!(matches!(&found[..], [Mismatch::NoSuchCamera { camera, .. }] if camera == "wrist"), "{found:?}");

    let swapped =
        robots::SO101_SIM.replace("wrist_flex", "?").replace("wrist_roll", "wrist_flex").replace('?', "wrist_roll");
    let found = check_robot(bundle.spec(), &robot(&swapped));
    assert!(
        found
            .iter()
            .any(|m| matches!(m, Mismatch::JointOrder { joint, policy: 3, robot: 4, .. } if joint == "wrist_flex")),
        "{found:?}"
    );

    let found = check_robot(bundle.spec(), &robot(&robots::SO101_SIM.replacen("\"so101_sim\"", "\"another\"", 1)));
    assert!(found.iter().any(|m| m.to_string().contains("`another`")), "{found:?}");
}
