//! The time that goes out in stamps: the wall clock's, or with `use_sim_time` that of `/clock`.

use super::lock;
use crate::interface::{ClockMessage, Message, decode};
use crate::message::Stamp;
use crate::rmw::Qos;
use crate::transport::{Endpoint, Transport, TransportError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where simulated time comes from.
pub const CLOCK_TOPIC: &str = "/clock";

/// The time of a node. Cloned values are one clock.
#[derive(Clone, Default)]
pub struct NodeTime {
    is_simulated: Arc<AtomicBool>,
    newest: Arc<Mutex<Stamp>>,
    endpoint: Arc<Mutex<Option<Box<dyn Endpoint>>>>,
}

impl NodeTime {
    /// Follows `/clock` from now on, or the wall clock again. Until the first message simulated time is 0, as in rcl.
    ///
    /// # Errors
    /// [`TransportError`]: the time stays what it was.
    pub fn follow(&self, simulated: bool, transport: &dyn Transport) -> Result<(), TransportError> {
        let mut endpoint = lock(&self.endpoint);
        if !simulated {
            self.is_simulated.store(false, Ordering::Release);
            endpoint.take();
            return Ok(());
        }
        if endpoint.is_none() {
            let newest = Arc::clone(&self.newest);
            *lock(&newest) = Stamp::default();
            let on = Box::new(move |bytes: &[u8], _| {
                if let Ok(message) = decode::<ClockMessage>(bytes) {
                    *lock(&newest) = message.clock;
                }
            });
            *endpoint = Some(transport.subscribe(CLOCK_TOPIC, ClockMessage::TYPE, Qos::LATEST, on)?);
        }
        self.is_simulated.store(true, Ordering::Release);
        Ok(())
    }

    /// Now. Never called on the control thread.
    pub fn now(&self) -> Stamp {
        match self.is_simulated.load(Ordering::Acquire) {
            true => *lock(&self.newest),
            false => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Stamp::since_epoch(since).unwrap_or_default()
            }
        }
    }
}
