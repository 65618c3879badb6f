//! Thermal and power state, where the platform shows it: a machine that throttles answers later than it was measured.
//!
//! Read from `/sys/class/thermal`, `/sys/devices/system/cpu` (cpufreq limits, Intel's throttle counters),
//! `/sys/class/hwmon` (over-current events of a Jetson), `/sys/class/power_supply` and `/var/lib/nvpmodel/status` with
//! the names of `/etc/nvpmodel.conf`. What a platform does not show is absent, never zero. A virtual machine usually
//! shows nothing.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One thermal zone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThermalZone {
    /// What it measures, as the driver names it.
    pub kind: String,
    /// Temperature now, °C.
    pub temperature_c: f64,
    /// The lowest temperature at which the kernel begins to slow things down, °C.
    pub passive_c: Option<f64>,
}

/// One supply.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerSupply {
    /// Its name.
    pub name: String,
    /// `Mains`, `Battery`, `USB`.
    pub kind: String,
    /// Whether it delivers, for mains.
    pub is_online: Option<bool>,
    /// Charge left, %, for a battery.
    pub capacity_percent: Option<f64>,
}

/// What the platform shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PowerState {
    /// Temperatures.
    pub zones: Vec<ThermalZone>,
    /// The lowest share of its top frequency that a core is held to, 0 to 1.
    pub frequency_limit: Option<f64>,
    /// Cooling devices at work that slow a processor down, by kind.
    pub slowed_by: BTreeMap<String, u64>,
    /// Events in which the processor throttled since boot.
    pub throttle_events: Option<u64>,
    /// Over-current events since boot (Jetson).
    pub over_current_events: Option<u64>,
    /// Power mode (Jetson's `nvpmodel`).
    pub power_mode: Option<String>,
    /// Supplies.
    pub supplies: Vec<PowerSupply>,
}

impl PowerState {
    /// What this machine shows now.
    pub fn read() -> Self {
        Self::read_from(Path::new("/"))
    }

    /// What the tree under `root` shows.
    pub fn read_from(root: &Path) -> Self {
        let cpus = entries(&root.join("sys/devices/system/cpu"), "cpu");
        let hwmon = entries(&root.join("sys/class/hwmon"), "hwmon");
        Self {
            zones: entries(&root.join("sys/class/thermal"), "thermal_zone").iter().filter_map(|at| zone(at)).collect(),
            frequency_limit: cpus.iter().filter_map(|cpu| frequency_limit(cpu)).min_by(f64::total_cmp),
            slowed_by: slowed_by(&root.join("sys/class/thermal")),
            throttle_events: sum(cpus.iter().map(|cpu| number(&cpu.join("thermal_throttle/core_throttle_count")))),
            over_current_events: sum(hwmon.iter().flat_map(|at| {
                let counters = entries(at, "oc");
                counters.into_iter().filter(|at| at.to_string_lossy().ends_with("_event_cnt")).map(|at| number(&at))
            })),
            power_mode: power_mode(root),
            supplies: entries(&root.join("sys/class/power_supply"), "").iter().filter_map(|at| supply(at)).collect(),
        }
    }

    /// Whether the platform shows anything at all.
    pub fn is_shown(&self) -> bool {
        *self != Self::default()
    }

    /// Why this machine is slower than its data sheet now, one reason each; empty when it is not, or does not say.
    pub fn throttling(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for zone in &self.zones {
            if let Some(passive) = zone.passive_c.filter(|&passive| zone.temperature_c >= passive) {
                reasons.push(format!("{} at {:.0} °C, throttles from {passive:.0} °C", zone.kind, zone.temperature_c));
            }
        }
        if let Some(limit) = self.frequency_limit.filter(|&limit| limit < 0.99) {
            reasons.push(format!("a core is held to {:.0} % of its top frequency", limit * 100.0));
        }
        for (kind, state) in &self.slowed_by {
            reasons.push(format!("cooling device {kind} at state {state}"));
        }
        reasons
    }

    /// The same, and what happened since `earlier`.
    pub fn throttling_since(&self, earlier: &Self) -> Vec<String> {
        let mut reasons = self.throttling();
        let more = |now: Option<u64>, then: Option<u64>| now?.checked_sub(then?).filter(|&more| more > 0);
        if let Some(events) = more(self.throttle_events, earlier.throttle_events) {
            reasons.push(format!("the processor throttled {events} times"));
        }
        if let Some(events) = more(self.over_current_events, earlier.over_current_events) {
            reasons.push(format!("{events} over-current events"));
        }
        reasons
    }

    /// One line.
    pub fn describe(&self) -> String {
        if !self.is_shown() {
            return "the platform shows neither temperatures nor limits".to_owned();
        }
        let mut parts = Vec::new();
        if let Some(zone) = self.zones.iter().max_by(|a, b| a.temperature_c.total_cmp(&b.temperature_c)) {
            parts.push(format!("warmest {} at {:.0} °C of {} zones", zone.kind, zone.temperature_c, self.zones.len()));
        }
        if let Some(limit) = self.frequency_limit {
            parts.push(format!("frequency limit {:.0} %", limit * 100.0));
        }
        if let Some(mode) = &self.power_mode {
            parts.push(format!("power mode {mode}"));
        }
        for supply in &self.supplies {
            match (supply.is_online, supply.capacity_percent) {
                (_, Some(percent)) => parts.push(format!("{} {} {percent:.0} %", supply.kind, supply.name)),
                (Some(online), _) => {
                    parts.push(format!("{} {}", supply.kind, if online { "online" } else { "offline" }));
                }
                _ => {}
            }
        }
        let throttling = self.throttling();
        parts.push(if throttling.is_empty() { "not throttled".to_owned() } else { throttling.join("; ") });
        parts.join(", ")
    }
}

/// Entries of a folder whose name starts with `prefix` (and, for a bare `cpu`, goes on with a number), in order.
fn entries(folder: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let rest = name.strip_prefix(prefix)?;
            (prefix != "cpu" || rest.parse::<u32>().is_ok()).then(|| folder.join(name))
        })
        .collect();
    found.sort();
    found
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

fn sum(counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    counts.flatten().fold(None, |sum: Option<u64>, count| Some(sum.unwrap_or(0).saturating_add(count)))
}

/// Watches how fast the machine may run, and says when that has changed.
#[derive(Clone, Debug)]
pub struct SpeedWatch {
    root: PathBuf,
    share: f64,
}

/// Smallest change of speed worth planning anew for.
const NOTICED: f64 = 0.02;

impl SpeedWatch {
    /// Of this machine.
    pub fn new() -> Self {
        Self::of(Path::new("/"))
    }

    /// Of the tree under `root`. A machine that does not say is at full speed.
    pub fn of(root: &Path) -> Self {
        Self { root: root.to_owned(), share: share(root) }
    }

    /// The share of its top frequency the slowest core may run at, if that has changed since the last call. Reads files:
    /// not for the control thread.
    pub fn changed(&mut self) -> Option<SpeedChange> {
        let (from, to) = (self.share, share(&self.root));
        if (to - from).abs() < NOTICED {
            return None;
        }
        self.share = to;
        Some(SpeedChange { from, to })
    }
}

impl Default for SpeedWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Another speed, as shares of the top frequency.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct SpeedChange {
    /// Before.
    pub from: f64,
    /// Now.
    pub to: f64,
}

impl SpeedChange {
    /// How many times longer everything takes.
    pub fn slowdown(self) -> f64 {
        self.from / self.to
    }
}

fn share(root: &Path) -> f64 {
    let cpus = entries(&root.join("sys/devices/system/cpu"), "cpu");
    let limit = cpus.iter().filter_map(|cpu| frequency_limit(cpu)).min_by(f64::total_cmp);
    limit.unwrap_or(1.0).clamp(0.01, 1.0)
}

fn zone(at: &Path) -> Option<ThermalZone> {
    let millis: f64 = number(&at.join("temp"))?;
    let trips = entries(at, "trip_point_");
    let passive_c = trips
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.strip_suffix("_type").map(str::to_owned))
        .filter(|trip| text(&at.join(format!("{trip}_type"))).as_deref() == Some("passive"))
        .filter_map(|trip| number::<f64>(&at.join(format!("{trip}_temp"))))
        // Some firmware writes 0 or less for "none".
        .filter(|&temperature| temperature > 0.0)
        .min_by(f64::total_cmp)
        .map(|millis| millis / 1e3);
    Some(ThermalZone { kind: text(&at.join("type"))?, temperature_c: millis / 1e3, passive_c })
}

fn frequency_limit(cpu: &Path) -> Option<f64> {
    let limit: f64 = number(&cpu.join("cpufreq/scaling_max_freq"))?;
    let top: f64 = number(&cpu.join("cpufreq/cpuinfo_max_freq"))?;
    (top > 0.0).then_some(limit / top)
}

fn slowed_by(thermal: &Path) -> BTreeMap<String, u64> {
    let mut at_work = BTreeMap::new();
    for device in entries(thermal, "cooling_device") {
        let Some(kind) = text(&device.join("type")) else { continue };
        let lower = kind.to_lowercase();
        let slows =
            ["processor", "cpufreq", "devfreq", "powerclamp", "throttle"].iter().any(|part| lower.contains(part));
        match number::<i64>(&device.join("cur_state")).and_then(|state| u64::try_from(state).ok()) {
            Some(state) if slows && state > 0 => {
                let highest = at_work.entry(kind).or_insert(0);
                *highest = state.max(*highest);
            }
            _ => {}
        }
    }
    at_work
}

/// `pmode:0002` with the name that `/etc/nvpmodel.conf` gives to number 2.
fn power_mode(root: &Path) -> Option<String> {
    let status = text(&root.join("var/lib/nvpmodel/status"))?;
    let id: u32 = status.strip_prefix("pmode:")?.split_whitespace().next()?.parse().ok()?;
    let configuration = fs::read_to_string(root.join("etc/nvpmodel.conf")).unwrap_or_default();
    let name = configuration.lines().filter_map(|line| line.trim().strip_prefix("< POWER_MODEL ")).find_map(|line| {
        let mut fields = line.trim_end_matches('>').split_whitespace().filter_map(|field| field.split_once('='));
        let this: u32 = fields.find(|(key, _)| *key == "ID")?.1.parse().ok()?;
        (this == id).then(|| fields.find(|(key, _)| *key == "NAME").map(|(_, name)| name.to_owned()))?
    });
    Some(name.map_or_else(|| id.to_string(), |name| format!("{id} ({name})")))
}

fn supply(at: &Path) -> Option<PowerSupply> {
    Some(PowerSupply {
        name: at.file_name()?.to_str()?.to_owned(),
        kind: text(&at.join("type"))?,
        is_online: number::<u8>(&at.join("online")).map(|online| online > 0),
        capacity_percent: number(&at.join("capacity")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, contents: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{contents}\n")).unwrap();
    }

    #[test]
    fn a_platform_that_shows_nothing_is_not_called_cool() {
        let root = tempfile::tempdir().unwrap();
        let state = PowerState::read_from(root.path());
        assert!(!state.is_shown() && state.throttling().is_empty());
        assert!(state.describe().contains("neither"), "{}", state.describe());
    }

    #[test]
    fn a_hot_jetson_says_what_slows_it_down() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path();
        for (path, contents) in [
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
            ("sys/class/thermal/thermal_zone0/temp", "99500"),
            ("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical"),
            ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "104500"),
            ("sys/class/thermal/thermal_zone0/trip_point_1_type", "passive"),
            ("sys/class/thermal/thermal_zone0/trip_point_1_temp", "99000"),
            ("sys/class/thermal/thermal_zone1/type", "broken"),
            ("sys/class/thermal/thermal_zone1/temp", "?"),
            ("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0"),
            ("sys/class/thermal/cooling_device0/cur_state", "3"),
            ("sys/class/thermal/cooling_device1/type", "pwm-fan"),
            ("sys/class/thermal/cooling_device1/cur_state", "4"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "1100000"),
            ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "2200000"),
            ("sys/devices/system/cpu/cpufreq/boost", "1"),
            ("sys/class/hwmon/hwmon3/oc1_event_cnt", "2"),
            ("var/lib/nvpmodel/status", "pmode:0002"),
            ("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=30W >\nCPU_ONLINE CORE_0 1"),
            ("sys/class/power_supply/BAT0/type", "Battery"),
            ("sys/class/power_supply/BAT0/capacity", "41"),
        ] {
            put(at, path, contents);
        }
        let state = PowerState::read_from(at);
        assert_eq!(state.zones.len(), 1);
        assert_eq!(state.zones[0].passive_c, Some(99.0));
        assert_eq!(state.power_mode.as_deref(), Some("2 (30W)"));
        assert_eq!(state.frequency_limit, Some(0.5));
        let reasons = state.throttling().join("; ");
        for part in ["cpu-thermal at 100 °C", "50 % of its top frequency", "cpufreq-cpu0 at state 3"] {
            assert!(reasons.contains(part), "{part} is missing in {reasons}");
        }
        assert!(!reasons.contains("fan"), "{reasons}");
        put(at, "sys/class/hwmon/hwmon3/oc1_event_cnt", "5");
        let later = PowerState::read_from(at);
        assert!(later.throttling_since(&state).join("; ").contains("3 over-current events"));
        assert!(state.describe().contains("Battery BAT0 41 %"), "{}", state.describe());
    }

    #[test]
    fn a_machine_that_is_slowed_down_is_noticed_once_each_way() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "2000000");
        let limit = |khz: &str| put(root.path(), "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", khz);
        limit("2000000");
        let mut watch = SpeedWatch::of(root.path());
        assert_eq!(watch.changed(), None);
        limit("1000000");
        assert_eq!(watch.changed().map(SpeedChange::slowdown), Some(2.0));
        assert_eq!(watch.changed(), None);
        limit("2000000");
        assert_eq!(watch.changed().map(SpeedChange::slowdown), Some(0.5));
        assert_eq!(SpeedWatch::of(&root.path().join("nothing")).changed(), None);
    }
}
