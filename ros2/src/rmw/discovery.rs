//! `ros_discovery_info` on DDS: which node each endpoint belongs to. Without it a participant is no node to ROS 2.

use crate::cdr::{CdrError, HEADER_BYTES, Reader, Writer};

/// Topic of the messages; it has no `rt/` in front.
pub const TOPIC: &str = "ros_discovery_info";
/// Their type.
pub const TYPE: &str = "rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_";

/// A GUID.
pub type Gid = [u8; 16];

/// One node of a participant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeEntities {
    /// `/` or `/some/name`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// GUIDs of its readers.
    pub readers: Vec<Gid>,
    /// GUIDs of its writers.
    pub writers: Vec<Gid>,
}

/// What a participant says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParticipantEntities {
    /// The participant's GUID.
    pub gid: Gid,
    /// Its nodes.
    pub nodes: Vec<NodeEntities>,
}

/// Bytes of a GUID in the message: 16 from Iron on, 24 in Humble.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct GidBytes(usize);

impl GidBytes {
    /// From Iron on.
    pub const IRON: Self = Self(16);
    /// Humble.
    pub const HUMBLE: Self = Self(24);

    fn put(self, gid: &Gid, writer: &mut Writer) -> Result<(), CdrError> {
        gid.iter().chain(&[0; 8]).take(self.0).try_for_each(|&byte| writer.u8(byte))
    }

    fn get(self, reader: &mut Reader) -> Result<Gid, CdrError> {
        let mut gid = [0; 16];
        for place in 0..self.0 {
            let byte = reader.u8()?;
            if let Some(slot) = gid.get_mut(place) {
                *slot = byte;
            }
        }
        Ok(gid)
    }
}

impl ParticipantEntities {
    /// The message, encapsulated.
    ///
    /// # Errors
    /// [`CdrError::TooLong`].
    pub fn encode(&self, gid_bytes: GidBytes) -> Result<Vec<u8>, CdrError> {
        let text: usize = self.nodes.iter().map(|node| node.namespace.len() + node.name.len()).sum();
        let gids: usize = self.nodes.iter().map(|node| node.readers.len() + node.writers.len()).sum();
        let mut buffer = vec![0; HEADER_BYTES + text + (gids + 1) * gid_bytes.0 + self.nodes.len() * 32 + 32];
        let mut writer = Writer::new(&mut buffer)?;
        gid_bytes.put(&self.gid, &mut writer)?;
        writer.count(self.nodes.len())?;
        for node in &self.nodes {
            writer.string(&node.namespace)?;
            writer.string(&node.name)?;
            for gids in [&node.readers, &node.writers] {
                writer.count(gids.len())?;
                gids.iter().try_for_each(|gid| gid_bytes.put(gid, &mut writer))?;
            }
        }
        let written = writer.written();
        buffer.truncate(written);
        Ok(buffer)
    }

    /// The message in `bytes`; total on any bytes.
    ///
    /// # Errors
    /// [`CdrError`].
    pub fn decode(bytes: &[u8], gid_bytes: GidBytes) -> Result<Self, CdrError> {
        let mut reader = Reader::new(bytes)?;
        let gid = gid_bytes.get(&mut reader)?;
        let mut nodes = Vec::new();
        for _ in 0..reader.count(16)? {
            let mut node = NodeEntities {
                namespace: reader.string()?.to_owned(),
                name: reader.string()?.to_owned(),
                ..NodeEntities::default()
            };
            for gids in [&mut node.readers, &mut node.writers] {
                for _ in 0..reader.count(gid_bytes.0)? {
                    gids.push(gid_bytes.get(&mut reader)?);
                }
            }
            nodes.push(node);
        }
        Ok(Self { gid, nodes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_participant_comes_back_as_it_went_and_bad_bytes_are_refused() {
        let node = |name: &str| NodeEntities {
            namespace: "/left".into(),
            name: name.into(),
            readers: vec![[7; 16], [8; 16]],
            writers: vec![[9; 16]],
        };
        let info = ParticipantEntities { gid: [1; 16], nodes: vec![node("a"), node("much_longer")] };
        for gid_bytes in [GidBytes::IRON, GidBytes::HUMBLE] {
            let bytes = info.encode(gid_bytes).unwrap();
            assert_eq!(ParticipantEntities::decode(&bytes, gid_bytes), Ok(info.clone()));
            for end in 0..bytes.len() {
                assert!(ParticipantEntities::decode(&bytes[..end], gid_bytes).is_err(), "{end}");
            }
        }
        let mut absurd = info.encode(GidBytes::IRON).unwrap();
        absurd[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(ParticipantEntities::decode(&absurd, GidBytes::IRON), Err(CdrError::Count { .. })));
    }
}
