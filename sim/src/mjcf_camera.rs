//! Reads the `<camera>` elements of an MJCF, which the physics loader ignores.

use crate::model::ModelError;

/// A camera fixed to a body: pinhole, square pixels, looking along −z of its own axes.
#[derive(Clone, Debug, PartialEq)]
pub struct MountedCamera {
    /// The camera's name.
    pub name: String,
    /// Index of the body it is fixed to; 0 is the world.
    pub body: usize,
    /// Optical centre in the body's frame, m.
    pub position_m: [f32; 3],
    /// Image-right axis in the body's frame, unit.
    pub right: [f32; 3],
    /// Image-up axis in the body's frame, unit and orthogonal to `right`.
    pub up: [f32; 3],
    /// Vertical field of view, degrees.
    pub fovy_deg: f32,
}

/// A `<camera>` as written, its body still by name.
pub(crate) struct NamedCamera {
    pub(crate) body: Option<String>,
    camera: MountedCamera,
}

impl NamedCamera {
    pub(crate) fn mounted(self, body: usize) -> MountedCamera {
        MountedCamera { body, ..self.camera }
    }
}

/// Every `<camera name pos xyaxes fovy>` of the document, with the body that encloses it.
///
/// A scanner for well-formed MJCF without CDATA; the physics loader has parsed the same text before.
pub(crate) fn cameras(text: &str) -> Result<Vec<NamedCamera>, ModelError> {
    let mut found = Vec::new();
    let mut bodies: Vec<Option<String>> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let Some((tag, after)) = rest.split_once('>') else { break };
        rest = after;
        let name_end = tag.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(tag.len());
        if tag == "/body" {
            bodies.pop();
        } else if &tag[..name_end] == "body" && !tag.ends_with('/') {
            bodies.push(attribute(tag, "name").map(str::to_owned));
        } else if &tag[..name_end] == "camera" {
            found.push(NamedCamera { body: bodies.last().cloned().flatten(), camera: camera(tag)? });
        }
    }
    Ok(found)
}

fn camera(tag: &str) -> Result<MountedCamera, ModelError> {
    let name = attribute(tag, "name").unwrap_or_default().to_owned();
    let bad = |attribute: &'static str| ModelError::Camera { camera: name.clone(), attribute };
    if name.is_empty() {
        return Err(bad("name"));
    }
    let position_m = numbers::<3>(tag, "pos").ok_or_else(|| bad("pos"))?;
    let axes = numbers::<6>(tag, "xyaxes").ok_or_else(|| bad("xyaxes"))?;
    let [fovy_deg] = numbers::<1>(tag, "fovy").ok_or_else(|| bad("fovy"))?;
    let right = unit([axes[0], axes[1], axes[2]]).ok_or_else(|| bad("xyaxes"))?;
    let y = [axes[3], axes[4], axes[5]];
    // As MuJoCo does: y is made orthogonal to x.
    let along = y[0] * right[0] + y[1] * right[1] + y[2] * right[2];
    let up = unit([y[0] - along * right[0], y[1] - along * right[1], y[2] - along * right[2]])
        .ok_or_else(|| bad("xyaxes"))?;
    Ok(MountedCamera { name, body: 0, position_m, right, up, fovy_deg })
}

fn attribute<'a>(tag: &'a str, key: &str) -> Option<&'a str> {
    let mut rest = tag;
    while let Some(at) = rest.find(key) {
        let before_ok = rest[..at].ends_with(char::is_whitespace);
        let after = &rest[at + key.len()..];
        if before_ok && let Some(value) = after.strip_prefix("=\"") {
            return value.split_once('"').map(|(value, _)| value);
        }
        rest = after;
    }
    None
}

fn numbers<const N: usize>(tag: &str, key: &str) -> Option<[f32; N]> {
    let mut out = [0.0; N];
    let mut words = attribute(tag, key)?.split_whitespace();
    for slot in &mut out {
        *slot = words.next()?.parse().ok().filter(|x: &f32| x.is_finite())?;
    }
    words.next().is_none().then_some(out)
}

fn unit(v: [f32; 3]) -> Option<[f32; 3]> {
    let length = (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt();
    (length > 1e-6).then(|| v.map(|x| x / length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_knows_the_body_around_it() {
        let text = r#"<mujoco><!-- <camera name="no"/> --><worldbody>
            <camera name="a" pos="1 2 3" xyaxes="0 2 0 0 1 1" fovy="46"/>
            <body name="b"><body name="c"><camera name="d" pos="0 0 0" xyaxes="1 0 0 0 1 0" fovy="80"/></body></body>
            </worldbody></mujoco>"#;
        let all = cameras(text).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].body, None);
        assert_eq!(all[0].camera.up, [0.0, 0.0, 1.0]);
        assert_eq!(all[1].body.as_deref(), Some("c"));
        assert_eq!(all[1].camera.fovy_deg, 80.0);
    }

    #[test]
    fn a_malformed_camera_is_named() {
        let error = cameras(r#"<camera name="x" pos="1 2" xyaxes="1 0 0 0 1 0" fovy="1"/>"#).err();
        assert!(matches!(error, Some(ModelError::Camera { attribute: "pos", .. })));
    }
}
