//! One thread that hands every arriving message to whom it is for.

use super::bytes::Reader;
use rustdds::SampleIdentity;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Wake, Waker};
use std::thread::{JoinHandle, Thread};

/// One message as it arrived.
pub struct Arrived {
    /// Encapsulated CDR.
    pub bytes: Vec<u8>,
    /// The writer's GUID and the message's number there.
    pub id: SampleIdentity,
    /// What it answers or wants answered as, where its writer said so.
    pub related: Option<SampleIdentity>,
}

/// Takes each message.
pub type Take = Box<dyn FnMut(Arrived) + Send>;

enum Order {
    Add(Box<Served>),
    Remove(u64),
    Stop,
}

/// Wakes the thread for one reader.
struct Bell {
    thread: Thread,
    rang: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

struct Served {
    key: u64,
    reader: Reader,
    take: Take,
    /// Hung up when the thread takes the reader over.
    bell: Option<Arc<Bell>>,
}

impl Served {
    /// Takes what is there. The bell is hung up again first: a message that comes after the last look rings it.
    fn drain(&mut self, malformed: &AtomicU64) {
        let Some(bell) = &self.bell else { return };
        bell.rang.store(false, Ordering::Release);
        self.reader.set_waker(Some(Waker::from(Arc::clone(bell))));
        self.reader.drain_read_notifications();
        loop {
            match self.reader.try_take_one() {
                Ok(Some(sample)) => {
                    let id =
                        SampleIdentity { writer_guid: sample.writer_guid(), sequence_number: sample.sequence_number };
                    let related = sample.related_sample_identity();
                    (self.take)(Arrived { bytes: sample.into_value().0, id, related });
                }
                Ok(None) => break,
                Err(_) => {
                    malformed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The thread.
pub struct Dispatch {
    orders: Sender<Order>,
    next_key: AtomicU64,
    malformed: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Dispatch {
    pub fn start() -> std::io::Result<Self> {
        let (orders, inbox) = channel();
        let malformed = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&malformed);
        let thread = std::thread::Builder::new().name("dds-in".into()).spawn(move || run(&inbox, &counter))?;
        Ok(Self { orders, next_key: AtomicU64::new(0), malformed, thread: Some(thread) })
    }

    /// Messages that are not plain CDR.
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Serves a reader until the place is given up.
    pub fn add(&self, reader: Reader, take: Take) -> Place {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let place = Place { key, orders: self.orders.clone(), thread: self.handle() };
        place.send(Order::Add(Box::new(Served { key, reader, take, bell: None })));
        place
    }

    fn handle(&self) -> Option<Thread> {
        self.thread.as_ref().map(|thread| thread.thread().clone())
    }
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop); // the thread is gone where it panicked, and that was printed
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// A reader's place with the thread; the reader is gone soon after the place.
pub struct Place {
    key: u64,
    orders: Sender<Order>,
    thread: Option<Thread>,
}

impl Place {
    fn send(&self, order: Order) {
        let _ = self.orders.send(order); // the transport is gone, and every reader with it
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.send(Order::Remove(self.key));
    }
}

fn run(inbox: &Receiver<Order>, malformed: &AtomicU64) {
    let mut served: Vec<Served> = Vec::new();
    loop {
        while let Ok(order) = inbox.try_recv() {
            match order {
                Order::Add(mut one) => {
                    one.bell = Some(Arc::new(Bell { thread: std::thread::current(), rang: AtomicBool::new(true) }));
                    served.push(*one);
                }
                Order::Remove(key) => served.retain(|one| one.key != key),
                Order::Stop => return,
            }
        }
        let mut any = false;
        for one in &mut served {
            if one.bell.as_ref().is_some_and(|bell| bell.rang.load(Ordering::Acquire)) {
                any = true;
                one.drain(malformed);
            }
        }
        if !any {
            std::thread::park();
        }
    }
}
