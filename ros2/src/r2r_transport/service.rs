//! Services: r2r has them by types it made from the sourced ROS, not by bytes, so each type of this crate has its bridge.

use super::graph::IsServed;
use super::quality;
use super::spinner::Spun;
use crate::interface::ServiceType;
use crate::rmw::Qos;
use crate::transport::{Answer, OnRequest, Request, TransportError};
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use futures::future::{AbortHandle, FutureExt};
use futures::stream::StreamExt;
use r2r::{Node, WrappedServiceTypeSupport as Typed, WrappedTypesupport as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Wake;
use std::thread::Thread;
use std::time::Instant;

/// An answer under way.
pub type Pending = Pin<Box<dyn Future<Output = Result<Vec<u8>, r2r::Error>> + Send>>;
/// Sends a request, from any thread.
pub type Ask = Box<dyn Fn(&[u8]) -> Result<Pending, r2r::Error> + Send>;

/// A client, and whether its server is there.
type Asking = (Ask, IsServed);

/// How one type of service is served and asked.
pub struct Bridge {
    /// Serves it until aborted; counts the requests that could not be written as bytes.
    pub serve: fn(&mut Spun, &str, OnRequest, Arc<AtomicU64>) -> Result<AbortHandle, r2r::Error>,
    /// A client of it.
    pub client: fn(&mut Spun, &str) -> Result<Asking, r2r::Error>,
}

/// The table: `package, Type Type …;` as r2r names them.
macro_rules! table {
    ($kind:expr; $($package:ident: $($service:ident)+;)+) => {
        match $kind.ros_name {
            $($(concat!(stringify!($package), "/srv/", stringify!($service)) => {
                Some(bridge::<r2r::$package::srv::$service::Service>())
            })+)+
            _ => None,
        }
    };
}

/// The bridge of a type, if r2r was built with it.
pub fn bridge_of(kind: ServiceType) -> Option<Bridge> {
    standard(kind).or_else(|| {
        table! { kind;
            lifecycle_msgs: ChangeState GetState GetAvailableStates GetAvailableTransitions;
            rcl_interfaces: GetParameters GetParameterTypes SetParameters SetParametersAtomically ListParameters
                DescribeParameters;
        }
    })
}

#[cfg(not(feature = "r2r-check"))]
fn standard(kind: ServiceType) -> Option<Bridge> {
    table! { kind; std_srvs: Trigger SetBool; }
}

/// The types that r2r keeps for builds without ROS lack this package.
#[cfg(feature = "r2r-check")]
fn standard(_: ServiceType) -> Option<Bridge> {
    None
}

fn bridge<T: Typed + 'static>() -> Bridge
where
    T::Request: Send + 'static,
    T::Response: Send + 'static,
{
    Bridge { serve: serve::<T>, client: client::<T> }
}

fn serve<T: Typed + 'static>(
    spun: &mut Spun,
    name: &str,
    on: OnRequest,
    malformed: Arc<AtomicU64>,
) -> Result<AbortHandle, r2r::Error> {
    let requests = spun.node.borrow_mut().create_service::<T>(name, quality::to_r2r(Qos::DEFAULT))?;
    let name = name.to_owned();
    let task = requests.for_each(move |asked| {
        match asked.message.to_serialized_bytes() {
            Ok(bytes) => {
                let name = name.clone();
                let answer: Answer = Box::new(move |response: &[u8]| {
                    let sent = T::Response::from_serialized_bytes(response).and_then(|message| asked.respond(message));
                    sent.map_err(|error| TransportError::Send { name, reason: error.to_string() })
                });
                on(Request { bytes, answer });
            }
            Err(_) => drop(malformed.fetch_add(1, Ordering::Relaxed)),
        }
        core::future::ready(())
    });
    Ok(spun.run(task))
}

fn client<T: Typed + 'static>(spun: &mut Spun, name: &str) -> Result<Asking, r2r::Error>
where
    T::Request: Send + 'static,
    T::Response: Send + 'static,
{
    let client = Arc::new(spun.node.borrow_mut().create_client::<T>(name, quality::to_r2r(Qos::DEFAULT))?);
    spun.waits();
    let of_ask = Arc::clone(&client);
    let ask: Ask = Box::new(move |request: &[u8]| {
        let answer = of_ask.request(&T::Request::from_serialized_bytes(request)?)?;
        Ok(Box::pin(async move { answer.await?.to_serialized_bytes() }))
    });
    // Kept until it is answered: r2r forgets no question.
    let mut asked = None;
    let is_served: IsServed = Box::new(move |node: &RefCell<Node>| {
        let Some(mut pending) = asked.take().or_else(|| Node::is_available(&*client).ok().map(Box::pin)) else {
            return false;
        };
        node.borrow_mut().spin_once(core::time::Duration::ZERO);
        match (&mut pending).now_or_never() {
            Some(answer) => answer.is_ok(),
            None => {
                asked = Some(pending);
                false
            }
        }
    });
    Ok((ask, is_served))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for an answer on this thread; `None` past `until`.
pub fn wait(mut pending: Pending, until: Instant) -> Option<Result<Vec<u8>, r2r::Error>> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(answer) = pending.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(answer);
        }
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::*;

    #[test]
    fn every_service_of_this_crate_has_its_bridge() {
        let mut all = vec![
            ChangeState::TYPE,
            GetState::TYPE,
            GetAvailableStates::TYPE,
            GetAvailableTransitions::TYPE,
            GetParameters::TYPE,
            GetParameterTypes::TYPE,
            SetParameters::TYPE,
            SetParametersAtomically::TYPE,
            ListParameters::TYPE,
            DescribeParameters::TYPE,
        ];
        if cfg!(not(feature = "r2r-check")) {
            all.extend([Trigger::TYPE, SetBool::TYPE]);
            assert_eq!(all.len() * 2, catalogue::CATALOGUE.iter().filter(|one| one.ros_name.contains("/srv/")).count());
        }
        for kind in all {
            assert!(bridge_of(kind).is_some(), "{}", kind.ros_name);
        }
        assert!(bridge_of(ServiceType { ros_name: "a/srv/B", ..Trigger::TYPE }).is_none());
    }

    #[test]
    fn an_answer_is_waited_for_as_long_as_asked() {
        let soon = Instant::now() + core::time::Duration::from_millis(20);
        assert!(wait(Box::pin(core::future::pending()), soon).is_none());
        assert!(Instant::now() >= soon);
        let (send, receive) = futures::channel::oneshot::channel();
        let thread = std::thread::spawn(move || send.send(vec![7]));
        let later = Instant::now() + core::time::Duration::from_secs(20);
        let answer = wait(Box::pin(async move { Ok(receive.await.unwrap()) }), later);
        assert_eq!(answer.unwrap().unwrap(), [7]);
        thread.join().unwrap().unwrap();
    }
}
