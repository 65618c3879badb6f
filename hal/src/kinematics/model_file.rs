//! A chain read from the text of a URDF or of an MJCF: the joints on the way from the base to a named tool.
//!
//! Read are the places and axes of hinge joints and what is fixed between them. Nothing else of the files matters here:
//! limits, masses and meshes are ignored. What would bend the chain and is not understood is refused by name.

use std::collections::BTreeMap;

use nalgebra::{Isometry3, Matrix3, Quaternion, Rotation3, Translation3, UnitQuaternion, Vector3};
use roxmltree::{Document, Node};

use super::pose;

/// Deeper nesting than any arm has; also what ends a loop of parents.
const MAX_DEPTH: usize = 64;

/// Why a model file gives no chain. Names the element and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{element}: {message}")]
pub struct ModelFileError {
    /// The element, with its name where it has one.
    pub element: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// One hinge joint on the way, by the file's name for it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelLink {
    /// The joint's name in the file.
    pub joint: String,
    /// Its frame at zero, as seen from the joint's before.
    pub origin: Isometry3<f64>,
    /// The axis it turns about, in its frame.
    pub axis: [f64; 3],
}

/// The joints from the base to a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPath {
    /// Base first.
    pub links: Vec<ModelLink>,
    /// The tool, as seen from the last joint's frame.
    pub tool: Isometry3<f64>,
}

impl ModelPath {
    /// Reads a URDF or an MJCF, whichever `text` is: from `base` (the root of the tree where it is not named) to `tip`, a
    /// link of a URDF, a site or a body of an MJCF.
    ///
    /// # Errors
    /// [`ModelFileError`].
    pub fn read(text: &str, base: Option<&str>, tip: &str) -> Result<Self, ModelFileError> {
        let document = Document::parse(text).map_err(|error| bad("the file", format!("is no XML: {error}")))?;
        let root = document.root_element();
        match root.tag_name().name() {
            "robot" => urdf(root, base, tip),
            "mujoco" => mjcf(root, base, tip),
            other => Err(bad(format!("<{other}>"), "is neither <robot> (URDF) nor <mujoco> (MJCF)")),
        }
    }
}

fn bad(element: impl Into<String>, message: impl Into<String>) -> ModelFileError {
    ModelFileError { element: element.into(), message: message.into() }
}

fn named(node: Node<'_, '_>) -> String {
    let tag = node.tag_name().name();
    node.attribute("name").map_or_else(|| format!("<{tag}>"), |name| format!("<{tag} name=\"{name}\">"))
}

/// The numbers of an attribute; `None` where it is absent.
fn numbers<const N: usize>(node: Node<'_, '_>, attribute: &str) -> Result<Option<[f64; N]>, ModelFileError> {
    let Some(text) = node.attribute(attribute) else { return Ok(None) };
    let values: Option<Vec<f64>> =
        text.split_whitespace().map(|word| word.parse().ok().filter(|value: &f64| value.is_finite())).collect();
    values
        .and_then(|values| values.try_into().ok())
        .map(Some)
        .ok_or_else(|| bad(named(node), format!("{attribute}=\"{text}\": write {N} finite numbers")))
}

fn direction(node: Node<'_, '_>, axis: [f64; 3]) -> Result<[f64; 3], ModelFileError> {
    if Vector3::from(axis).norm() < 1e-9 {
        return Err(bad(named(node), "its axis has no direction"));
    }
    Ok(axis)
}

/// Collects what lies between two joints.
struct Walk {
    links: Vec<ModelLink>,
    since: Isometry3<f64>,
}

impl Walk {
    fn new() -> Self {
        Self { links: Vec::new(), since: Isometry3::identity() }
    }

    fn hinge(&mut self, joint: &str, axis: [f64; 3]) {
        let origin = std::mem::replace(&mut self.since, Isometry3::identity());
        self.links.push(ModelLink { joint: joint.to_owned(), origin, axis });
    }

    fn end(self, tip: &str) -> Result<ModelPath, ModelFileError> {
        if self.links.is_empty() {
            return Err(bad(tip, "no joint moves it: name the frame of the tool"));
        }
        Ok(ModelPath { links: self.links, tool: self.since })
    }
}

fn urdf(root: Node<'_, '_>, base: Option<&str>, tip: &str) -> Result<ModelPath, ModelFileError> {
    let mut parent_joint = BTreeMap::new();
    for joint in root.children().filter(|node| node.has_tag_name("joint")) {
        let end = |tag: &str| {
            let link = joint.children().find(|node| node.has_tag_name(tag)).and_then(|node| node.attribute("link"));
            link.ok_or_else(|| bad(named(joint), format!("has no <{tag} link=…>")))
        };
        let (parent, child) = (end("parent")?, end("child")?);
        if parent_joint.insert(child, (parent, joint)).is_some() {
            return Err(bad(named(joint), format!("link \"{child}\" hangs on two joints")));
        }
    }
    if !root.children().any(|node| node.has_tag_name("link") && node.attribute("name") == Some(tip)) {
        return Err(bad(format!("tip \"{tip}\""), "is no <link> of the file"));
    }
    let mut path = Vec::new();
    let mut at = tip;
    while Some(at) != base {
        let Some((parent, joint)) = parent_joint.get(at) else {
            match base {
                Some(base) => return Err(bad(format!("base \"{base}\""), format!("does not carry \"{tip}\""))),
                None => break,
            }
        };
        path.push(*joint);
        at = parent;
        if path.len() > MAX_DEPTH {
            return Err(bad(named(*joint), "the links form a loop, or more of them than an arm has"));
        }
    }
    let mut walk = Walk::new();
    for joint in path.into_iter().rev() {
        let origin = joint.children().find(|node| node.has_tag_name("origin"));
        let of = |attribute| origin.map_or(Ok(None), |node| numbers::<3>(node, attribute));
        walk.since *= pose(of("xyz")?.unwrap_or_default(), of("rpy")?.unwrap_or_default());
        match joint.attribute("type") {
            Some("fixed") => {}
            Some("revolute" | "continuous") => {
                if joint.children().any(|node| node.has_tag_name("mimic")) {
                    return Err(bad(
                        named(joint),
                        "a joint that mimics another is not supported on the way to the tool",
                    ));
                }
                let axis = joint.children().find(|node| node.has_tag_name("axis"));
                let axis = axis.map_or(Ok(None), |node| numbers(node, "xyz"))?.unwrap_or([1.0, 0.0, 0.0]);
                walk.hinge(joint.attribute("name").unwrap_or_default(), direction(joint, axis)?);
            }
            other => {
                let kind = other.unwrap_or("missing");
                return Err(bad(
                    named(joint),
                    format!("type {kind}: only revolute joints are supported on the way to the tool"),
                ));
            }
        }
    }
    walk.end(tip)
}

/// What an MJCF says once for the whole file.
struct Mjcf<'a, 'i> {
    degrees: bool,
    eulerseq: String,
    /// Joint defaults by class; each class knows the class it is in.
    classes: BTreeMap<String, (Option<String>, Option<Node<'a, 'i>>)>,
}

fn mjcf(root: Node<'_, '_>, base: Option<&str>, tip: &str) -> Result<ModelPath, ModelFileError> {
    let compiler = |attribute| {
        root.children().filter(|node| node.has_tag_name("compiler")).find_map(|node| node.attribute(attribute))
    };
    if let Some(node) = root.descendants().find(|node| node.has_tag_name("include")) {
        return Err(bad(named(node), "save the model as one file (MuJoCo's mj_saveLastXML does)"));
    }
    if compiler("coordinate") == Some("global") {
        return Err(bad("<compiler>", "coordinate=\"global\" is not supported: save the model with a present MuJoCo"));
    }
    let mut rules = Mjcf {
        degrees: compiler("angle") != Some("radian"),
        eulerseq: compiler("eulerseq").unwrap_or("xyz").to_owned(),
        classes: BTreeMap::new(),
    };
    for node in root.children().filter(|node| node.has_tag_name("default")) {
        classes(node, None, &mut rules.classes, 0)?;
    }
    let found = root.children().filter(|node| node.has_tag_name("worldbody")).flat_map(|node| node.descendants());
    let is_frame = |node: &Node<'_, '_>| node.has_tag_name("site") || node.has_tag_name("body");
    let tool = found
        .filter(is_frame)
        .find(|node| node.attribute("name") == Some(tip))
        .ok_or_else(|| bad(format!("tip \"{tip}\""), "is no <site> or <body> of the file"))?;
    let mut path = Vec::new();
    let mut is_below_base = base.is_none();
    for node in tool.ancestors() {
        if node.has_tag_name("worldbody")
            || (node.has_tag_name("body") && node.attribute("name") == base && base.is_some())
        {
            is_below_base |= node.has_tag_name("body");
            break;
        }
        if !is_frame(&node) && !node.has_tag_name("frame") {
            return Err(bad(named(node), "is not supported between the base and the tool"));
        }
        path.push(node);
        if path.len() > MAX_DEPTH {
            return Err(bad(named(node), "more bodies than an arm has"));
        }
    }
    if !is_below_base {
        return Err(bad(format!("base \"{}\"", base.unwrap_or_default()), format!("does not carry \"{tip}\"")));
    }
    let mut walk = Walk::new();
    for node in path.into_iter().rev() {
        walk.since *= rules.placed(node)?;
        for joint in node.children().filter(|node| node.has_tag_name("joint") || node.has_tag_name("freejoint")) {
            rules.joint(joint, node, &mut walk)?;
        }
    }
    walk.end(tip)
}

fn classes<'a, 'i>(
    node: Node<'a, 'i>,
    parent: Option<&str>,
    found: &mut BTreeMap<String, (Option<String>, Option<Node<'a, 'i>>)>,
    depth: usize,
) -> Result<(), ModelFileError> {
    if depth > MAX_DEPTH {
        return Err(bad(named(node), "classes lie deeper than any model's"));
    }
    let name = node.attribute("class").unwrap_or("main");
    let joint = node.children().find(|node| node.has_tag_name("joint"));
    found.insert(name.to_owned(), (parent.map(str::to_owned), joint));
    node.children()
        .filter(|node| node.has_tag_name("default"))
        .try_for_each(|child| classes(child, Some(name), found, depth + 1))
}

impl<'a, 'i> Mjcf<'a, 'i> {
    fn angle(&self, value: f64) -> f64 {
        if self.degrees { value.to_radians() } else { value }
    }

    /// Where a body, site or frame stands in what encloses it.
    fn placed(&self, node: Node<'_, '_>) -> Result<Isometry3<f64>, ModelFileError> {
        let xyz = numbers::<3>(node, "pos")?.unwrap_or_default();
        let unit = |vector: [f64; 3]| {
            let vector = Vector3::from(vector);
            vector.try_normalize(1e-9).ok_or_else(|| bad(named(node), "its orientation has an axis without direction"))
        };
        let rotation = if let Some([w, x, y, z]) = numbers(node, "quat")? {
            UnitQuaternion::try_new(Quaternion::new(w, x, y, z), 1e-9)
                .ok_or_else(|| bad(named(node), "its quaternion is zero"))?
        } else if let Some([x, y, z, angle]) = numbers(node, "axisangle")? {
            UnitQuaternion::from_scaled_axis(unit([x, y, z])? * self.angle(angle))
        } else if let Some(angles) = numbers::<3>(node, "euler")? {
            self.euler(node, angles)?
        } else if let Some([a, b, c, d, e, f]) = numbers(node, "xyaxes")? {
            let x = unit([a, b, c])?;
            let y = Vector3::new(d, e, f);
            let y = unit((y - x * x.dot(&y)).into())?;
            let matrix = Matrix3::from_columns(&[x, y, x.cross(&y)]);
            UnitQuaternion::from_rotation_matrix(&Rotation3::from_matrix_unchecked(matrix))
        } else if let Some(z) = numbers(node, "zaxis")? {
            let z = unit(z)?;
            // Opposite directions have no single shortest turn; MuJoCo takes the one about x.
            UnitQuaternion::rotation_between(&Vector3::z(), &z)
                .unwrap_or_else(|| UnitQuaternion::from_scaled_axis(Vector3::x() * core::f64::consts::PI))
        } else {
            UnitQuaternion::identity()
        };
        Ok(Isometry3::from_parts(Translation3::from(Vector3::from(xyz)), rotation))
    }

    /// Lower-case letters turn about the axes as they come to lie, upper-case ones about the fixed axes.
    fn euler(&self, node: Node<'_, '_>, angles: [f64; 3]) -> Result<UnitQuaternion<f64>, ModelFileError> {
        let mut rotation = UnitQuaternion::identity();
        if self.eulerseq.chars().count() != 3 {
            return Err(bad("<compiler>", format!("eulerseq=\"{}\" is no sequence of three axes", self.eulerseq)));
        }
        for (letter, angle) in self.eulerseq.chars().zip(angles) {
            let axis = match letter.to_ascii_lowercase() {
                'x' => Vector3::x(),
                'y' => Vector3::y(),
                'z' => Vector3::z(),
                _ => return Err(bad(named(node), format!("eulerseq=\"{}\" is no sequence of axes", self.eulerseq))),
            };
            let turn = UnitQuaternion::from_scaled_axis(axis * self.angle(angle));
            rotation = if letter.is_ascii_lowercase() { rotation * turn } else { turn * rotation };
        }
        Ok(rotation)
    }

    /// A joint's attribute: its own, its class's, or that of a class around it.
    fn attribute_node(&self, joint: Node<'a, 'i>, body: Node<'a, 'i>, attribute: &str) -> Option<Node<'a, 'i>> {
        if joint.has_attribute(attribute) {
            return Some(joint);
        }
        let around = || body.ancestors().find_map(|node| node.attribute("childclass"));
        let mut class = Some(joint.attribute("class").or_else(around).unwrap_or("main").to_owned());
        for _ in 0..MAX_DEPTH {
            let (parent, defaults) = self.classes.get(class.as_deref()?)?;
            if let Some(node) = defaults.filter(|node| node.has_attribute(attribute)) {
                return Some(node);
            }
            class.clone_from(parent);
        }
        None
    }

    fn joint(&self, joint: Node<'a, 'i>, body: Node<'a, 'i>, walk: &mut Walk) -> Result<(), ModelFileError> {
        let of = |attribute| self.attribute_node(joint, body, attribute);
        let kind = if joint.has_tag_name("freejoint") {
            "free"
        } else {
            of("type").and_then(|node| node.attribute("type")).unwrap_or("hinge")
        };
        if kind != "hinge" {
            return Err(bad(
                named(joint),
                format!("type {kind}: only hinge joints are supported on the way to the tool"),
            ));
        }
        let vector = |attribute| of(attribute).map_or(Ok(None), |node| numbers::<3>(node, attribute));
        let reference = of("ref").map_or(Ok(None), |node| numbers::<1>(node, "ref"))?;
        if reference.is_some_and(|[value]| value != 0.0) {
            return Err(bad(named(joint), "ref: a joint whose zero is not where the model is drawn is not supported"));
        }
        let Some(name) = joint.attribute("name") else {
            return Err(bad(named(body), "a joint without a name lies on the way to the tool: name it"));
        };
        let anchor = Translation3::from(Vector3::from(vector("pos")?.unwrap_or_default()));
        let axis = direction(joint, vector("axis")?.unwrap_or([0.0, 0.0, 1.0]))?;
        walk.since *= anchor;
        walk.hinge(name, axis);
        walk.since *= anchor.inverse();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URDF: &str = r#"<robot name="two">
      <link name="base"/><link name="upper"/><link name="flange"/><link name="hand"/>
      <joint name="a" type="revolute"><parent link="base"/><child link="upper"/>
        <origin xyz="0 0 0.1" rpy="0 0 1.5707963267948966"/><axis xyz="0 1 0"/></joint>
      <joint name="b" type="continuous"><parent link="upper"/><child link="flange"/>
        <origin xyz="0.2 0 0"/></joint>
      <joint name="mount" type="fixed"><parent link="flange"/><child link="hand"/><origin xyz="0 0 0.05"/></joint>
    </robot>"#;

    #[test]
    fn a_urdf_gives_its_joints_in_order_and_folds_what_is_fixed() {
        let path = ModelPath::read(URDF, None, "hand").unwrap();
        assert_eq!(path.links.iter().map(|link| link.joint.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(path.links[1].axis, [1.0, 0.0, 0.0], "the default axis of a URDF");
        assert_eq!(path.tool.translation.vector, Vector3::new(0.0, 0.0, 0.05));
        assert!((path.links[0].origin.rotation.euler_angles().2 - core::f64::consts::FRAC_PI_2).abs() < 1e-12);
        assert_eq!(ModelPath::read(URDF, Some("upper"), "hand").unwrap().links.len(), 1);
    }

    #[test]
    fn an_mjcf_gives_its_joints_with_defaults_anchors_and_any_orientation() {
        let text = r#"<mujoco><compiler angle="degree" eulerseq="zyx"/>
          <default><default class="arm"><joint axis="0 1 0"/><default class="wrist"><joint axis="1 0 0"/></default></default></default>
          <worldbody><body name="base" childclass="arm" euler="90 0 0">
            <body name="upper" pos="0 0 .1"><joint name="a" pos="0 0 .02"/>
              <body name="hand" quat="0 1 0 0"><joint name="b" class="wrist"/><site name="tip" pos="0 0 .05" zaxis="0 0 -1"/></body>
            </body></body></worldbody></mujoco>"#;
        let path = ModelPath::read(text, None, "tip").unwrap();
        assert_eq!((path.links[0].axis, path.links[1].axis), ([0.0, 1.0, 0.0], [1.0, 0.0, 0.0]));
        assert!((path.links[0].origin.translation.vector - Vector3::new(0.0, 0.0, 0.12)).norm() < 1e-12);
        assert!((path.links[0].origin.rotation.euler_angles().2 - core::f64::consts::FRAC_PI_2).abs() < 1e-12);
        assert!((path.links[1].origin.translation.vector - Vector3::new(0.0, 0.0, -0.02)).norm() < 1e-12);
        assert_eq!(ModelPath::read(text, Some("upper"), "tip").unwrap().links.len(), 1);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let refused = |text: &str, base, tip| ModelPath::read(text, base, tip).unwrap_err().to_string();
        assert!(refused("<robot", None, "hand").contains("no XML"));
        assert!(refused("<sdf/>", None, "hand").contains("<sdf>"));
        assert!(refused(URDF, None, "claw").contains("\"claw\""));
        assert!(refused(URDF, Some("hand"), "upper").contains("does not carry"));
        assert!(refused(&URDF.replace("continuous", "prismatic"), None, "hand").contains("\"b\""));
        assert!(refused(&URDF.replace("0 1 0", "0 0 0"), None, "hand").contains("no direction"));
        assert!(refused(&URDF.replace("0 0 0.1", "0 0"), None, "hand").contains("3 finite numbers"));
        assert!(refused(&URDF.replace("parent link=\"base\"", "parent link=\"hand\""), None, "hand").contains("loop"));
        let slide = r#"<mujoco><worldbody><body name="x"><joint name="s" type="slide"/></body></worldbody></mujoco>"#;
        assert!(refused(slide, None, "x").contains("type slide"));
    }
}
