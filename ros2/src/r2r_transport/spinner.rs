//! The thread that owns the node: r2r has one thread make and take, and lets others publish, ask and answer.

use core::cell::RefCell;
use core::future::Future;
use core::time::Duration;
use futures::executor::{LocalPool, LocalSpawner};
use futures::future::{AbortHandle, abortable};
use futures::task::LocalSpawnExt;
use r2r::{Context, Node};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// How long the thread waits for messages before it looks for orders: r2r has nothing to wake it with.
const SPIN: Duration = Duration::from_millis(5);

type Task = Box<dyn FnOnce(&mut Spun) + Send>;

enum Order {
    Do(Task),
    Stop,
}

/// Why a node was not made.
pub enum NoNode {
    /// The thread.
    Thread(std::io::Error),
    /// rcl ended with a message of its own on standard error.
    Context,
    /// The node.
    Node(r2r::Error),
}

/// What the thread has.
pub struct Spun {
    /// Borrowed for the length of a call only.
    pub node: Rc<RefCell<Node>>,
    /// Endpoints of this node that are in the graph.
    pub own: super::graph::Owned,
    spawner: LocalSpawner,
    /// Without anything to wait for, rcl does not wait.
    waits: bool,
}

impl Spun {
    /// Runs what serves an endpoint on this thread, until the handle aborts it.
    pub fn run(&mut self, task: impl Future<Output = ()> + 'static) -> AbortHandle {
        self.waits = true;
        let (task, handle) = abortable(task);
        // Only a pool that is gone refuses, and it goes with this thread.
        let _ = self.spawner.spawn_local(async move {
            let _ = task.await;
        });
        handle
    }

    /// There is a client, and its answers are to be waited for.
    pub fn waits(&mut self) {
        self.waits = true;
    }
}

/// The way to the thread.
#[derive(Clone)]
pub struct Orders {
    orders: Sender<Order>,
    thread: std::thread::ThreadId,
}

impl Orders {
    /// Has something done some milliseconds later.
    pub fn send(&self, task: impl FnOnce(&mut Spun) + Send + 'static) {
        let _ = self.orders.send(Order::Do(Box::new(task))); // the node is gone, and all it had with it
    }

    /// Has something done and waits for its outcome; `None` where the thread is gone, or asks itself.
    pub fn ask<T: Send + 'static>(&self, task: impl FnOnce(&mut Spun) -> T + Send + 'static) -> Option<T> {
        if std::thread::current().id() == self.thread {
            return None;
        }
        let (reply, outcome) = channel();
        self.send(move |spun| drop(reply.send(task(spun))));
        outcome.recv().ok()
    }
}

/// The thread.
pub struct Spinner {
    pub orders: Orders,
    thread: Option<JoinHandle<()>>,
}

impl Spinner {
    /// Makes the node on a thread of its own.
    pub fn start(name: String, namespace: String) -> Result<Self, NoNode> {
        let (orders, inbox) = channel();
        let (made, outcome) = channel();
        let run = move || {
            let node = Context::create().and_then(|context| Node::create(context, &name, &namespace));
            match node {
                Ok(node) => {
                    if made.send(Ok(())).is_ok() {
                        run(&inbox, node);
                    }
                }
                Err(error) => drop(made.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new().name("r2r".into()).spawn(run).map_err(NoNode::Thread)?;
        outcome.recv().map_err(|_| NoNode::Context)?.map_err(NoNode::Node)?;
        let id = thread.thread().id();
        Ok(Self { orders: Orders { orders, thread: id }, thread: Some(thread) })
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        let _ = self.orders.orders.send(Order::Stop); // the thread is gone where it panicked, and that was printed
        if let Some(thread) = self.thread.take().filter(|one| one.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn run(inbox: &Receiver<Order>, node: Node) {
    let mut pool = LocalPool::new();
    let node = Rc::new(RefCell::new(node));
    let mut spun = Spun { node, own: Default::default(), spawner: pool.spawner(), waits: false };
    loop {
        let order = if spun.waits {
            inbox.try_recv()
        } else {
            inbox.recv_timeout(SPIN).map_err(|error| match error {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            })
        };
        match order {
            Ok(Order::Do(task)) => task(&mut spun),
            Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) if spun.waits => {
                spun.node.borrow_mut().spin_once(SPIN);
                pool.run_until_stalled();
            }
            Err(TryRecvError::Empty) => {}
        }
    }
}
