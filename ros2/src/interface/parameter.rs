//! Parameters: values, descriptions, events and the services about them.

use super::{Bounded, Byte, Seq, interface, service, topic};
use crate::message::Stamp;

interface!(
    /// A value; `kind` says which field holds it.
    ParameterValue<'a> = "rcl_interfaces/msg/ParameterValue" {
        /// 0 not set, 1 bool, 2 integer, 3 double, 4 string, 5 to 9 arrays of byte, bool, integer, double, string.
        r#type: u8,
        /// Kind 1.
        bool_value: bool,
        /// Kind 2.
        integer_value: i64,
        /// Kind 3.
        double_value: f64,
        /// Kind 4.
        string_value: &'a str,
        /// Kind 5.
        byte_array_value: Seq<'a, Byte>,
        /// Kind 6.
        bool_array_value: Seq<'a, bool>,
        /// Kind 7.
        integer_array_value: Seq<'a, i64>,
        /// Kind 8.
        double_array_value: Seq<'a, f64>,
        /// Kind 9.
        string_array_value: Seq<'a, &'a str>,
    }
);

interface!(
    /// A named value.
    Parameter<'a> = "rcl_interfaces/msg/Parameter" {
        /// Name.
        name: &'a str,
        /// Value.
        value: ParameterValue<'a>,
    }
);

interface!(
    /// Parameters changed.
    ParameterEvent<'a> = "rcl_interfaces/msg/ParameterEvent" {
        /// When.
        stamp: Stamp,
        /// Whose: the node's full name.
        node: &'a str,
        /// New ones.
        new_parameters: Seq<'a, Parameter<'a>>,
        /// Changed ones.
        changed_parameters: Seq<'a, Parameter<'a>>,
        /// Deleted ones.
        deleted_parameters: Seq<'a, Parameter<'a>>,
    }
);
topic!(
    ParameterEvent<'a>,
    "rcl_interfaces",
    "ParameterEvent",
    "043e627780fcad87a22d225bc2a037361dba713fca6a6b9f4b869a5aa0393204"
);

interface!(
    /// Numbers a double may be.
    FloatingPointRange = "rcl_interfaces/msg/FloatingPointRange" {
        /// Smallest.
        from_value: f64,
        /// Largest.
        to_value: f64,
        /// 0, or the distance between allowed values.
        step: f64,
    }
);
interface!(
    /// Numbers an integer may be.
    IntegerRange = "rcl_interfaces/msg/IntegerRange" {
        /// Smallest.
        from_value: i64,
        /// Largest.
        to_value: i64,
        /// 0, or the distance between allowed values.
        step: u64,
    }
);
interface!(
    /// What a parameter is.
    ParameterDescriptor<'a> = "rcl_interfaces/msg/ParameterDescriptor" {
        /// Name.
        name: &'a str,
        /// Kind of its value.
        r#type: u8,
        /// For people.
        description: &'a str,
        /// What else must hold.
        additional_constraints: &'a str,
        /// Whether it can never be set.
        read_only: bool,
        /// Whether its kind may change.
        dynamic_typing: bool,
        /// Of a double.
        floating_point_range: Bounded<'a, FloatingPointRange, 1>,
        /// Of an integer.
        integer_range: Bounded<'a, IntegerRange, 1>,
    }
);

interface!(
    /// Parameters by name.
    NamesRequest<'a> = "rcl_interfaces/srv/GetParameters_Request" {
        /// Names.
        names: Seq<'a, &'a str>,
    }
);
interface!(
    /// Values in the order asked.
    GetParametersResponse<'a> = "rcl_interfaces/srv/GetParameters_Response" {
        /// Values.
        values: Seq<'a, ParameterValue<'a>>,
    }
);
service!(
    /// Which values?
    GetParameters, NamesRequest<'a>, GetParametersResponse<'a>, "rcl_interfaces", "GetParameters",
    "bf9803d5c74cf989a5de3e0c2e99444599a627c7ff75f97b8c05b01003675cbc"
);

interface!(
    /// Kinds in the order asked.
    GetParameterTypesResponse<'a> = "rcl_interfaces/srv/GetParameterTypes_Response" {
        /// Kinds.
        types: &'a [u8],
    }
);
service!(
    /// Which kinds?
    GetParameterTypes, NamesRequest<'a>, GetParameterTypesResponse<'a>, "rcl_interfaces", "GetParameterTypes",
    "da199c878688b3e530bdfe3ca8f74cb9fa0c303101e980a9e8f260e25e1c80ca"
);

interface!(
    /// Parameters to set.
    SetParametersRequest<'a> = "rcl_interfaces/srv/SetParameters_Request" {
        /// Parameters.
        parameters: Seq<'a, Parameter<'a>>,
    }
);
interface!(
    /// What became of setting one.
    SetParametersResult<'a> = "rcl_interfaces/msg/SetParametersResult" {
        /// Whether it was set.
        successful: bool,
        /// Why not.
        reason: &'a str,
    }
);
interface!(
    /// Results in the order asked.
    SetParametersResponse<'a> = "rcl_interfaces/srv/SetParameters_Response" {
        /// Results.
        results: Seq<'a, SetParametersResult<'a>>,
    }
);
service!(
    /// Set each.
    SetParameters, SetParametersRequest<'a>, SetParametersResponse<'a>, "rcl_interfaces", "SetParameters",
    "56eed9a67e169f9cb6c1f987bc88f868c14a8fc9f743a263bc734c154015d7e0"
);

interface!(
    /// One result for all.
    SetParametersAtomicallyResponse<'a> = "rcl_interfaces/srv/SetParametersAtomically_Response" {
        /// Result.
        result: SetParametersResult<'a>,
    }
);
service!(
    /// Set all or none.
    SetParametersAtomically, SetParametersRequest<'a>, SetParametersAtomicallyResponse<'a>, "rcl_interfaces",
    "SetParametersAtomically", "0e192ef259c07fc3c07a13191d27002222e65e00ccec653ca05e856f79285fcd"
);

interface!(
    /// Which parameters.
    ListParametersRequest<'a> = "rcl_interfaces/srv/ListParameters_Request" {
        /// Name prefixes; none for all.
        prefixes: Seq<'a, &'a str>,
        /// Levels of dots below a prefix; 0 for any.
        depth: u64,
    }
);
interface!(
    /// Names found.
    ListParametersResult<'a> = "rcl_interfaces/msg/ListParametersResult" {
        /// Names.
        names: Seq<'a, &'a str>,
        /// Their prefixes.
        prefixes: Seq<'a, &'a str>,
    }
);
interface!(
    /// Names found.
    ListParametersResponse<'a> = "rcl_interfaces/srv/ListParameters_Response" {
        /// Names found.
        result: ListParametersResult<'a>,
    }
);
service!(
    /// Which are there?
    ListParameters, ListParametersRequest<'a>, ListParametersResponse<'a>, "rcl_interfaces", "ListParameters",
    "3e6062bfbb27bfb8730d4cef2558221f51a11646d78e7bb30a1e83afac3aad9d"
);

interface!(
    /// Descriptions in the order asked.
    DescribeParametersResponse<'a> = "rcl_interfaces/srv/DescribeParameters_Response" {
        /// Descriptions.
        descriptors: Seq<'a, ParameterDescriptor<'a>>,
    }
);
service!(
    /// What are they?
    DescribeParameters, NamesRequest<'a>, DescribeParametersResponse<'a>, "rcl_interfaces", "DescribeParameters",
    "845b484d71eb0673dae682f2e3ba3c4851a65a3dcfb97bddd82c5b57e91e4cff"
);
