//! Saddles that edges of alternating contrast join into a lattice.

use super::grey::Grey;
use super::saddle::Saddle;
use core::f64::consts::PI;
use std::collections::{BTreeMap, VecDeque};

/// Corners by their place in the lattice: `u` right, `v` down, turned and shifted as it was grown.
pub(super) type Lattice = BTreeMap<(i32, i32), [f64; 2]>;

/// Largest angle between an edge's direction at a corner and the way to the next corner, rad.
const ASIDE: f64 = 0.2;
/// Shortest edge of a square that can be told, pixels.
const SHORTEST: f64 = 7.0;
/// Where an edge's contrast is looked at: shares of its length, and how far to either side of it (a share of its length;
/// a marker begins at 5 % of the square or more).
const ALONG: [f64; 6] = [0.16, 0.3, 0.44, 0.58, 0.72, 0.84];
const BESIDE: f64 = 0.04;
/// The smallest contrast of an edge, grey levels, and as a share of its largest.
const CONTRAST: f64 = 6.0;
const EVEN: f64 = 0.25;

/// The lattices of an image, largest first; each has four corners or more.
pub(super) fn grow(image: &Grey, saddles: &[Saddle]) -> Vec<Lattice> {
    let rays: Vec<[f64; 4]> = saddles
        .iter()
        .map(|saddle| [saddle.edges[0], saddle.edges[1], saddle.edges[0] + PI, saddle.edges[1] + PI])
        .collect();
    let mut wanted: Vec<[Option<usize>; 4]> = Vec::with_capacity(saddles.len());
    for from in 0..saddles.len() {
        wanted.push([0, 1, 2, 3].map(|ray| nearest(image, saddles, &rays, from, ray)));
    }
    // Only what both ends agree on is an edge: (corner, ray) ↔ (corner, ray).
    let joined = |from: usize, ray: usize| {
        let to = wanted[from][ray]?;
        (0..4).find(|&back| wanted[to][back] == Some(from)).map(|back| (to, back))
    };
    let mut seen = vec![false; saddles.len()];
    let mut lattices = Vec::new();
    for seed in 0..saddles.len() {
        if seen[seed] {
            continue;
        }
        // Place of each corner, and which of its rays points to +u.
        let mut places: BTreeMap<usize, ((i32, i32), usize)> = BTreeMap::from([(seed, ((0, 0), 0))]);
        let mut doubtful: Vec<usize> = Vec::new();
        let mut queue = VecDeque::from([seed]);
        seen[seed] = true;
        while let Some(from) = queue.pop_front() {
            let ((u, v), forward) = places[&from];
            for (turn, (du, dv)) in [(1, 0), (0, 1), (-1, 0), (0, -1)].into_iter().enumerate() {
                let Some((to, back)) = joined(from, (forward + turn) % 4) else { continue };
                // Its ray back points to the opposite of `turn`.
                let place = ((u + du, v + dv), (back + 8 - (turn + 2)) % 4);
                match places.get(&to) {
                    Some(known) if *known != place => doubtful.push(to),
                    Some(_) => {}
                    None => {
                        places.insert(to, place);
                        seen[to] = true;
                        queue.push_back(to);
                    }
                }
            }
        }
        lattices.extend(parts(unique(&places, &doubtful, saddles)));
    }
    lattices.retain(|lattice| lattice.len() >= 4);
    lattices.sort_by_key(|lattice| core::cmp::Reverse(lattice.len()));
    lattices
}

/// Places that one corner alone claims.
fn unique(places: &BTreeMap<usize, ((i32, i32), usize)>, doubtful: &[usize], saddles: &[Saddle]) -> Lattice {
    let mut claims: BTreeMap<(i32, i32), Vec<usize>> = BTreeMap::new();
    for (&corner, &(place, _)) in places {
        claims.entry(place).or_default().push(corner);
    }
    let mut lattice: Lattice = claims
        .into_iter()
        .filter(|(_, corners)| corners.len() == 1 && !doubtful.contains(&corners[0]))
        .map(|(place, corners)| (place, saddles[corners[0]].at))
        .collect();
    while let Some(stranger) = stranger(&lattice) {
        lattice.remove(&stranger);
    }
    lattice
}

/// What hangs together: a part that hung on a corner that is gone may be numbered wrongly.
fn parts(mut lattice: Lattice) -> Vec<Lattice> {
    let mut parts = Vec::new();
    while let Some((&seed, _)) = lattice.first_key_value() {
        let (mut part, mut queue) = (Lattice::new(), vec![seed]);
        while let Some((u, v)) = queue.pop() {
            if let Some(at) = lattice.remove(&(u, v)) {
                part.insert((u, v), at);
                queue.extend([(u + 1, v), (u, v + 1), (u - 1, v), (u, v - 1)]);
            }
        }
        parts.push(part);
    }
    parts
}

/// Largest distance of a corner from the middle of its neighbours on a line, as a share of a square's side: perspective and
/// lens bend lines less over two squares.
const BENT: f64 = 0.12;

/// The corner that fits worst among its neighbours; `None` when all fit.
fn stranger(lattice: &Lattice) -> Option<(i32, i32)> {
    let beside = |(u, v): (i32, i32)| [(u + 1, v), (u, v + 1), (u - 1, v), (u, v - 1)];
    let lonely = |place: &&(i32, i32)| beside(**place).iter().filter(|near| lattice.contains_key(near)).count() < 2;
    if let Some(&place) = lattice.keys().find(lonely) {
        return Some(place);
    }
    let mut bent: BTreeMap<(i32, i32), usize> = BTreeMap::new();
    for (&(u, v), at) in lattice {
        for (du, dv) in [(1, 0), (0, 1)] {
            let ends = [(u - du, v - dv), (u + du, v + dv)];
            let [Some(one), Some(other)] = ends.map(|end| lattice.get(&end)) else { continue };
            let side = (one[0] - other[0]).hypot(one[1] - other[1]) / 2.0;
            let off = (at[0] - (one[0] + other[0]) / 2.0).hypot(at[1] - (one[1] + other[1]) / 2.0);
            if off > BENT * side {
                for place in [(u, v), ends[0], ends[1]] {
                    *bent.entry(place).or_default() += 1;
                }
            }
        }
    }
    bent.into_iter().max_by_key(|&(_, count)| count).map(|(place, _)| place)
}

/// The nearest corner along one ray that an edge leads to.
fn nearest(image: &Grey, saddles: &[Saddle], rays: &[[f64; 4]], from: usize, ray: usize) -> Option<usize> {
    let start = saddles[from].at;
    let mut best: Option<(f64, usize)> = None;
    for (to, saddle) in saddles.iter().enumerate().filter(|(to, _)| *to != from) {
        let way = [saddle.at[0] - start[0], saddle.at[1] - start[1]];
        let length = way[0].hypot(way[1]);
        if length < SHORTEST || best.is_some_and(|(nearest, _)| length >= nearest) {
            continue;
        }
        let direction = way[1].atan2(way[0]);
        if apart(direction, rays[from][ray]) > ASIDE {
            continue;
        }
        let meets = rays[to].iter().any(|&back| apart(direction + PI, back) <= ASIDE);
        if meets && is_edge(image, start, way, length) {
            best = Some((length, to));
        }
    }
    best.map(|(_, to)| to)
}

/// The angle between two directions.
fn apart(a: f64, b: f64) -> f64 {
    let turn = (a - b).rem_euclid(2.0 * PI);
    turn.min(2.0 * PI - turn)
}

/// Whether brightness steps the same way all along, as at the side of a square.
fn is_edge(image: &Grey, start: [f64; 2], way: [f64; 2], length: f64) -> bool {
    let aside = (BESIDE * length).max(1.3);
    let normal = [-way[1] / length * aside, way[0] / length * aside];
    let mut steps = ALONG.iter().map(|share| {
        let at = [start[0] + share * way[0], start[1] + share * way[1]];
        let one = image.at([at[0] + normal[0], at[1] + normal[1]])?;
        let other = image.at([at[0] - normal[0], at[1] - normal[1]])?;
        Some(one - other)
    });
    let Some(Some(first)) = steps.next() else { return false };
    let (mut least, mut most) = (first.abs(), first.abs());
    for step in steps {
        let Some(step) = step.filter(|step| step * first > 0.0) else { return false };
        (least, most) = (least.min(step.abs()), most.max(step.abs()));
    }
    least >= CONTRAST && least >= EVEN * most
}
