//! One graph for several numbers of rows: its contracts, and the range of shapes that TensorRT builds its engine for.

use std::fmt;

use super::{Contract, TensorSpec};

/// One graph of a symbolic number of rows: its contract for the fewest and for the most rows that it is declared for, and
/// for each number that a session is wanted for. The same tensors in the same order in all of them; a dimension that
/// differs is symbolic in the graph, and every other is static.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowContracts {
    least: (usize, Contract),
    most: (usize, Contract),
    wanted: Vec<(usize, Contract)>,
}

impl RowContracts {
    /// The contracts of `least` and `most` rows, of which `most` is more, and those of the numbers wanted.
    pub fn new(least: (usize, Contract), most: (usize, Contract), wanted: Vec<(usize, Contract)>) -> Self {
        Self { least, most, wanted }
    }

    /// Numbers of rows that sessions are wanted for, with their contracts.
    pub fn wanted(&self) -> &[(usize, Contract)] {
        &self.wanted
    }

    /// The contract of the fewest rows.
    pub(crate) fn least(&self) -> &Contract {
        &self.least.1
    }

    /// The contract of the most rows.
    pub(crate) fn most(&self) -> &Contract {
        &self.most.1
    }

    /// The most rows that the graph is declared for.
    pub(crate) fn most_rows(&self) -> usize {
        self.most.0
    }

    /// Inputs that grow with the rows, each with its shape for `rows` of them.
    fn growing(&self, rows: usize) -> impl Iterator<Item = (&str, Vec<usize>)> {
        let span = self.most.0.saturating_sub(self.least.0).max(1);
        let pairs = self.least.1.inputs().iter().zip(self.most.1.inputs());
        pairs.filter(|(least, most)| least.shape != most.shape).map(move |(least, most)| {
            let sizes = least.shape.iter().zip(&most.shape);
            // A dimension is its size without rows and so many for each.
            let grown = |(least, most): (&usize, &usize)| {
                let each = most.saturating_sub(*least) / span;
                (least + each * rows).saturating_sub(each * self.least.0)
            };
            (least.name.as_str(), sizes.map(grown).collect())
        })
    }
}

/// Fewest, best and most rows that TensorRT builds the engine of such a graph for (an optimisation profile).
#[derive(Copy, Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileRows {
    /// Fewest rows of a pass.
    pub min: usize,
    /// Rows that its kernels are chosen for.
    pub opt: usize,
    /// Most rows of a pass.
    pub max: usize,
}

impl ProfileRows {
    /// What is built where nothing else is asked for: every number up to `most`, kernels chosen for one row, the pass that is
    /// run most often.
    pub const fn up_to(most: usize) -> Self {
        Self { min: 1, opt: 1, max: most }
    }
}

impl fmt::Display for ProfileRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, opt, max } = self;
        write!(f, "{{ min = {min}, opt = {opt}, max = {max} }}")
    }
}

/// An optimisation profile as ONNX Runtime's TensorRT providers read it: `input:1x2x3,other:4`, every input that grows with
/// the rows and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeProfile {
    /// Smallest shapes.
    pub min: String,
    /// Shapes that kernels are chosen for.
    pub opt: String,
    /// Largest shapes.
    pub max: String,
}

impl ShapeProfile {
    /// The profile of a graph for these rows.
    pub fn of(contracts: &RowContracts, rows: ProfileRows) -> Self {
        let shapes = |rows: usize| {
            let words = contracts.growing(rows).map(|(name, shape)| {
                let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
                format!("{name}:{}", sizes.join("x"))
            });
            words.collect::<Vec<_>>().join(",")
        };
        Self { min: shapes(rows.min), opt: shapes(rows.opt), max: shapes(rows.max) }
    }
}

impl fmt::Display for ShapeProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "min {}; opt {}; max {}", self.min, self.opt, self.max)
    }
}

/// What runs and captured inputs of `graph` with `rows` rows are called: `decode.k8.onnx`.
pub(crate) fn label(graph: &str, rows: usize) -> String {
    format!("{}.k{rows}.onnx", graph.trim_end_matches(".onnx"))
}

/// Whether a dimension as declared, `None` for a symbolic one, is what the contracts of the fewest and the most rows say.
pub(super) fn is_as_declared(declared: Option<usize>, least: usize, most: usize) -> bool {
    match declared {
        Some(size) => size == least && size == most,
        None => least != most,
    }
}

/// The first dimension of a tensor that is static and should grow with the rows.
pub(super) fn fixed_dimension(declared: &[Option<usize>], least: &TensorSpec, most: &TensorSpec) -> Option<usize> {
    let sizes = least.shape.iter().zip(&most.shape).zip(declared);
    sizes
        .enumerate()
        .find_map(|(axis, ((least, most), declared))| (least != most && declared.is_some()).then_some(axis))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of three values, a mask over a slab of five and the rows themselves, a slab.
    fn contract(rows: usize) -> Contract {
        let mut contract = Contract::new();
        contract.input_f32("x", &[1, rows, 3]);
        contract.input_i64("positions", &[1, rows]);
        contract.input_f32("mask", &[1, 1, rows, 5 + rows]);
        contract.input_f32("past", &[1, 2, 5, 4]);
        contract.output_f32("logits", &[1, rows, 7]);
        contract
    }

    #[test]
    fn a_profile_names_the_inputs_that_grow_and_no_other() {
        let contracts = RowContracts::new((1, contract(1)), (110, contract(110)), Vec::new());
        let profile = ShapeProfile::of(&contracts, ProfileRows::up_to(110));
        assert_eq!(profile.min, "x:1x1x3,positions:1x1,mask:1x1x1x6");
        assert_eq!(profile.opt, profile.min);
        assert_eq!(profile.max, "x:1x110x3,positions:1x110,mask:1x1x110x115");
        let profile = ShapeProfile::of(&contracts, ProfileRows { min: 1, opt: 8, max: 200 });
        assert_eq!(profile.opt, "x:1x8x3,positions:1x8,mask:1x1x8x13");
        assert_eq!(profile.max, "x:1x200x3,positions:1x200,mask:1x1x200x205");
    }
}
