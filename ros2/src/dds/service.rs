//! Services over two topics: who asked travels beside the message (Fast DDS) or in front of it (Cyclone DDS).

use super::bytes::{Message, Writer};
use super::dispatch::{Arrived, Place};
use crate::cdr::HEADER_BYTES;
use crate::transport::{Answer, Client, OnRequest, Request, TransportError};
use core::time::Duration;
use rustdds::discovery::{DiscoveredReaderData, DiscoveredWriterData};
use rustdds::{DomainParticipant, GUID, SampleIdentity, SequenceNumber, Timestamp, WriteOptions, WriteOptionsBuilder};
use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Where a request's identity travels. The two do not understand each other.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum ServiceMapping {
    /// Beside the message, as DDS-RPC's enhanced mapping has it: rmw_fastrtps.
    #[default]
    FastDds,
    /// In front of the message: rmw_cyclonedds.
    Cyclone,
}

/// How long an answer waits for the asker's reader to be discovered, as Fast DDS waits.
const WAIT_FOR_ASKER: Duration = Duration::from_millis(100);
/// How often the graph is looked at while waiting.
const LOOK: Duration = Duration::from_millis(2);
/// From the moment an endpoint is discovered until messages surely go to it.
const SETTLE: Duration = Duration::from_millis(10);
/// Bytes Cyclone puts in front: half a GUID and a number.
const CYCLONE_BYTES: usize = 16;

/// A participant, as the front of every GUID of its endpoints says.
type Prefix = [u8; 12];

fn prefix_of(guid: GUID) -> Prefix {
    let mut prefix = [0; 12];
    prefix.copy_from_slice(&guid.to_bytes()[..12]);
    prefix
}

fn options(related: Option<SampleIdentity>) -> WriteOptions {
    WriteOptionsBuilder::new().source_timestamp(Timestamp::now()).related_sample_identity_opt(related).build()
}

/// Cyclone's header out of a message: the header, and the message without it.
fn split_cyclone(bytes: &[u8]) -> Option<([u8; CYCLONE_BYTES], Vec<u8>)> {
    let (encapsulation, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (header, message) = rest.split_first_chunk()?;
    Some((*header, [encapsulation, message].concat()))
}

fn join_cyclone(header: &[u8; CYCLONE_BYTES], message: &[u8]) -> Vec<u8> {
    let (encapsulation, rest) = message.split_at(HEADER_BYTES.min(message.len()));
    [encapsulation, header, rest].concat()
}

/// The answering end of a service.
pub struct Answers {
    pub writer: Writer,
    pub topic: String,
    pub participant: DomainParticipant,
    /// Participants whose readers of the answers are known to be matched.
    pub met: BTreeSet<Prefix>,
}

impl Answers {
    /// An answer to an asker whose reader is not matched yet would be lost.
    fn meet(&mut self, asker: Prefix) {
        if self.met.contains(&asker) {
            return;
        }
        let reads = |reader: &DiscoveredReaderData| {
            let data = &reader.subscription_topic_data;
            prefix_of(data.key()) == asker && *data.topic_name() == self.topic
        };
        let start = Instant::now();
        while start.elapsed() < WAIT_FOR_ASKER {
            if self.participant.discovered_readers().iter().any(reads) {
                std::thread::sleep(SETTLE);
                self.met.insert(asker);
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Makes a request of what arrived; `None` where it is no request of this mapping.
fn to_request(arrived: Arrived, mapping: ServiceMapping, name: &str, answers: &Arc<Mutex<Answers>>) -> Option<Request> {
    let (bytes, header) = match mapping {
        ServiceMapping::FastDds => (arrived.bytes, None),
        ServiceMapping::Cyclone => {
            let (header, bytes) = split_cyclone(&arrived.bytes)?;
            (bytes, Some(header))
        }
    };
    // Fast DDS names its reader here and leaves the number unknown: it is that of the request.
    let asked = match arrived.related {
        Some(related) if related.sequence_number != SequenceNumber::UNKNOWN => related,
        Some(related) => SampleIdentity { sequence_number: arrived.id.sequence_number, ..related },
        None => arrived.id,
    };
    let (asker, answers, name) = (prefix_of(arrived.id.writer_guid), Arc::clone(answers), name.to_owned());
    let answer: Answer = Box::new(move |response: &[u8]| {
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.meet(asker);
        let (message, related) = match header {
            None => (response.to_vec(), Some(asked)),
            Some(header) => (join_cyclone(&header, response), None),
        };
        match answers.writer.write_with_options(Message(message), options(related)) {
            Ok(_) => Ok(()),
            Err(error) => Err(TransportError::Send { name, reason: error.to_string() }),
        }
    });
    Some(Request { bytes, answer })
}

/// What takes the requests of a service.
pub fn on_requests(
    mapping: ServiceMapping,
    name: String,
    answers: Answers,
    on: OnRequest,
) -> impl FnMut(Arrived) + Send + 'static {
    let answers = Arc::new(Mutex::new(answers));
    move |arrived| {
        if let Some(request) = to_request(arrived, mapping, &name, &answers) {
            on(request);
        }
    }
}

/// A client of one service.
pub struct DdsClient {
    pub participant: DomainParticipant,
    pub mapping: ServiceMapping,
    pub name: String,
    /// Topics of the requests and of the answers.
    pub topics: [String; 2],
    /// A server was there at the last look.
    pub met: bool,
    pub requests: Writer,
    pub answers: Receiver<Arrived>,
    /// Number of the last request in Cyclone's mapping.
    pub sequence: i64,
    /// Keeps the reader of the answers, and both endpoints in the graph.
    pub _held: (Place, super::Own),
}

impl DdsClient {
    fn is_served(&self) -> bool {
        let [asked_on, answered_on] = &self.topics;
        let reads = |reader: &DiscoveredReaderData| *reader.subscription_topic_data.topic_name() == *asked_on;
        let writes = |writer: &DiscoveredWriterData| *writer.publication_topic_data.topic_name() == *answered_on;
        self.participant.discovered_readers().iter().any(reads)
            && self.participant.discovered_writers().iter().any(writes)
    }

    fn cyclone_header(&self) -> [u8; CYCLONE_BYTES] {
        let mut header = [0; CYCLONE_BYTES];
        header[..8].copy_from_slice(&rustdds::RTPSEntity::guid(&self.requests).to_bytes()[8..]);
        header[8..].copy_from_slice(&self.sequence.to_le_bytes());
        header
    }
}

impl Client for DdsClient {
    fn call(&mut self, request: &[u8], timeout: Duration) -> Result<Vec<u8>, TransportError> {
        let start = Instant::now();
        // A request to a server not yet discovered would be lost.
        while !self.is_served() {
            self.met = false;
            if start.elapsed() > timeout {
                return Err(TransportError::NoAnswer { name: self.name.clone(), timeout });
            }
            std::thread::sleep(LOOK);
        }
        if !std::mem::replace(&mut self.met, true) {
            std::thread::sleep(SETTLE);
        }
        while self.answers.try_recv().is_ok() {} // late ones, to requests given up
        self.sequence += 1;
        let header = self.cyclone_header();
        let message = match self.mapping {
            ServiceMapping::FastDds => request.to_vec(),
            ServiceMapping::Cyclone => join_cyclone(&header, request),
        };
        let sent = self
            .requests
            .write_with_options(Message(message), options(None))
            .map_err(|error| TransportError::Send { name: self.name.clone(), reason: error.to_string() })?;
        while let Some(left) = timeout.checked_sub(start.elapsed()) {
            let Ok(arrived) = self.answers.recv_timeout(left) else { break };
            match self.mapping {
                ServiceMapping::FastDds if arrived.related == Some(sent) => return Ok(arrived.bytes),
                ServiceMapping::Cyclone => {
                    if let Some((of, bytes)) = split_cyclone(&arrived.bytes)
                        && of == header
                    {
                        return Ok(bytes);
                    }
                }
                ServiceMapping::FastDds => {} // somebody else's
            }
        }
        Err(TransportError::NoAnswer { name: self.name.clone(), timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cyclones_header_goes_in_front_and_comes_off_again() {
        let header = [7; CYCLONE_BYTES];
        let joined = join_cyclone(&header, &[0, 1, 0, 0, 42]);
        assert_eq!(joined.len(), 21);
        assert_eq!(split_cyclone(&joined), Some((header, vec![0, 1, 0, 0, 42])));
        assert_eq!(split_cyclone(&joined[..19]), None);
    }
}
