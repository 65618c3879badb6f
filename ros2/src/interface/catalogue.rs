//! Every interface of this crate in one list: for tools, tests and fuzzing.

use super::rihs01::{Description, describe, describe_service};
use super::*;

/// One message, or one half of a service.
#[derive(Copy, Clone)]
pub struct Entry {
    /// ROS name; a half of a service ends in `_Request` or `_Response`.
    pub ros_name: &'static str,
    /// Type hash, of the service for a half of one.
    pub hash: &'static str,
    /// The description the hash is made of.
    pub describe: fn() -> Option<Description>,
    /// Decodes a message and encodes it again into the buffer; the bytes written.
    pub recode: fn(&[u8], &mut Vec<u8>) -> Result<usize, CdrError>,
}

fn recode<'b, T: Wire<'b>>(bytes: &'b [u8], buffer: &mut Vec<u8>) -> Result<usize, CdrError> {
    let message: T = decode(bytes)?;
    encode_into(&message, buffer).map(<[u8]>::len)
}

macro_rules! catalogue {
    (messages: $($message:ident),*; services: $($service:ident $request:literal $response:literal),*;) => {
        /// The list; its order is part of the fuzz corpus.
        pub const CATALOGUE: &[Entry] = &[
            $(Entry {
                ros_name: $message::TYPE.ros_name,
                hash: $message::TYPE.hash,
                describe: describe::<$message>,
                recode: |bytes, buffer| recode::<$message>(bytes, buffer),
            },)*
            $(Entry {
                ros_name: $request,
                hash: $service::TYPE.hash,
                describe: describe_service::<$service>,
                recode: |bytes, buffer| recode::<<$service as Service>::Request<'_>>(bytes, buffer),
            },
            Entry {
                ros_name: $response,
                hash: $service::TYPE.hash,
                describe: describe_service::<$service>,
                recode: |bytes, buffer| recode::<<$service as Service>::Response<'_>>(bytes, buffer),
            },)*
        ];
    };
}

catalogue! {
    messages: Text, ClockMessage, JointState, Image, CompressedImage, CameraInfo, Float64MultiArray, JointTrajectory,
        JointJog, DiagnosticArray, Log, TransitionEvent, ParameterEvent;
    services:
        Trigger "std_srvs/srv/Trigger_Request" "std_srvs/srv/Trigger_Response",
        SetBool "std_srvs/srv/SetBool_Request" "std_srvs/srv/SetBool_Response",
        ChangeState "lifecycle_msgs/srv/ChangeState_Request" "lifecycle_msgs/srv/ChangeState_Response",
        GetState "lifecycle_msgs/srv/GetState_Request" "lifecycle_msgs/srv/GetState_Response",
        GetAvailableStates "lifecycle_msgs/srv/GetAvailableStates_Request"
            "lifecycle_msgs/srv/GetAvailableStates_Response",
        GetAvailableTransitions "lifecycle_msgs/srv/GetAvailableTransitions_Request"
            "lifecycle_msgs/srv/GetAvailableTransitions_Response",
        GetParameters "rcl_interfaces/srv/GetParameters_Request" "rcl_interfaces/srv/GetParameters_Response",
        GetParameterTypes "rcl_interfaces/srv/GetParameterTypes_Request"
            "rcl_interfaces/srv/GetParameterTypes_Response",
        SetParameters "rcl_interfaces/srv/SetParameters_Request" "rcl_interfaces/srv/SetParameters_Response",
        SetParametersAtomically "rcl_interfaces/srv/SetParametersAtomically_Request"
            "rcl_interfaces/srv/SetParametersAtomically_Response",
        ListParameters "rcl_interfaces/srv/ListParameters_Request" "rcl_interfaces/srv/ListParameters_Response",
        DescribeParameters "rcl_interfaces/srv/DescribeParameters_Request"
            "rcl_interfaces/srv/DescribeParameters_Response";
}
