//! The loop of the simulated robot: physics, controller, joint states, images, and a judge for evaluations.

use super::SimArguments;
use super::controller::Controller;
use super::settle::Follower;
use crate::cli::error::CliError;
use crate::cli::node::episodes::{NEXT_EPISODE, OUTCOME_TOPIC};
use crate::cli::node::signalled;
use core::time::Duration;
use endplate_hal::{
    Arm, Camera, Clock, Frame, Instant, MonotonicClock, RobotSpec, SafetyFilter, SafetyLimits, Verdict,
};
use endplate_ros2::SessionMode;
use endplate_ros2::interface::*;
use endplate_ros2::message::Stamp;
use endplate_ros2::node::OutputKind;
use endplate_ros2::node::{DESCRIPTION_TOPIC, describe};
use endplate_ros2::rmw::Qos;
use endplate_ros2::transport::{Publisher, Request, Transport, TransportError};
use endplate_sim::model::Model;
use endplate_sim::robot::{SimOptions, SimRobot};
use endplate_sim::scene::Scene;
use endplate_sim::task::{self, COLOURS, Judge};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, mpsc::Sender};
use std::time::{SystemTime, UNIX_EPOCH};

enum Event {
    Command(Vec<u8>),
    NextEpisode(Request),
}

struct CameraOutput {
    camera: Box<dyn Camera>,
    frame: Frame,
    raw: Option<Box<dyn Publisher>>,
    compressed: Box<dyn Publisher>,
    info: Box<dyn Publisher>,
    buffer: Vec<u8>,
}

struct Episode {
    index: u64,
    judge: Judge,
    begun: Option<Instant>,
    is_over: bool,
}

struct Server {
    spec: RobotSpec,
    world: SimRobot,
    filter: SafetyFilter,
    controller: Controller,
    follower: Follower,
    events: Receiver<Event>,
    states: Box<dyn Publisher>,
    outcome: Box<dyn Publisher>,
    /// Latched: kept open for readers that come late.
    _description: Box<dyn Publisher>,
    cameras: Vec<CameraOutput>,
    /// Joints in the order their states are published in: by name, as a broadcaster need not keep our order.
    order: Vec<usize>,
    episode: Episode,
    seed: u64,
    /// Wall-clock time of instant 0.
    epoch: Duration,
    buffer: Vec<u8>,
    limited: u64,
    refused: u64,
}

pub fn serve(arguments: &SimArguments, spec: RobotSpec) -> Result<(), CliError> {
    signalled::install()?;
    let opened = arguments.wire.open("endplate_sim", SessionMode::Router)?;
    let transport = &*opened.transport;
    let clock = MonotonicClock::new();
    let start = clock.now();
    let epoch =
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() - Duration::from_nanos(clock.now().as_nanos());
    let model = Arc::new(Model::so101_like().map_err(CliError::failed)?);
    let seed = arguments.seed.0;
    let world =
        SimRobot::new(model, &Scene::sample(seed), SimOptions::from_spec(&spec), start).map_err(CliError::input)?;
    let joints: Vec<String> = spec.joints.iter().map(|joint| joint.name.clone()).collect();
    let mut order: Vec<usize> = (0..joints.len()).collect();
    order.sort_by_key(|&joint| &joints[joint]);
    let resting = world.arm().read(start).map_err(CliError::failed)?.position_rad;
    let (to_loop, events) = channel();
    let fail = |error: TransportError| CliError::Failed(error.to_string());
    let _endpoints = endpoints(transport, arguments.controller, &to_loop).map_err(fail)?;
    let cameras = world
        .cameras()
        .into_iter()
        .map(|camera| camera_output(transport, Box::new(camera), arguments.compressed_only))
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    let judge = Judge::new(task::target_of(0), &world.cubes());
    let mut description = transport.publisher(DESCRIPTION_TOPIC, Text::TYPE, Qos::LATCHED).map_err(fail)?;
    send(&mut *description, &Text { data: &describe(&spec.name, &spec.joints) }, &mut Vec::new());
    let mut server = Server {
        filter: SafetyFilter::new(guard(spec.safety_limits()), &resting).map_err(CliError::failed)?,
        controller: Controller::new(arguments.controller, joints),
        follower: Follower::default(),
        events,
        states: transport.publisher("/joint_states", JointState::TYPE, Qos::SYSTEM).map_err(fail)?,
        outcome: transport.publisher(OUTCOME_TOPIC, Text::TYPE, Qos::DEFAULT).map_err(fail)?,
        _description: description,
        cameras,
        order,
        episode: Episode { index: 0, judge, begun: None, is_over: true },
        seed,
        epoch,
        buffer: Vec::new(),
        limited: 0,
        refused: 0,
        spec,
        world,
    };
    remark!(
        "sim        {} as {} on domain {}, commands on {}",
        server.spec.name,
        transport.node(),
        opened.domain,
        arguments.controller.topic()
    );
    let period = server.spec.control.period;
    let mut deadline = start;
    while !signalled::is_set() {
        deadline = deadline.saturating_add(period).max(clock.now());
        clock.sleep_until(deadline);
        let now = clock.now();
        server.step(now);
        if arguments.seconds.is_some_and(|seconds| now.seconds_since(start) > seconds) {
            break;
        }
    }
    remark!("sim        {} commands limited, {} refused", server.limited, server.refused);
    Ok(())
}

fn endpoints(
    transport: &dyn Transport,
    controller: OutputKind,
    to_loop: &Sender<Event>,
) -> Result<Vec<Box<dyn endplate_ros2::transport::Endpoint>>, TransportError> {
    let (commands, episodes) = (to_loop.clone(), to_loop.clone());
    Ok(vec![
        transport.subscribe(
            controller.topic(),
            controller.message_type(),
            Qos::SYSTEM,
            Box::new(move |bytes, _| drop(commands.send(Event::Command(bytes.to_vec())))),
        )?,
        transport.serve(
            NEXT_EPISODE,
            Trigger::TYPE,
            Box::new(move |request| drop(episodes.send(Event::NextEpisode(request)))),
        )?,
    ])
}

fn camera_output(
    transport: &dyn Transport,
    camera: Box<dyn Camera>,
    compressed_only: bool,
) -> Result<CameraOutput, TransportError> {
    let (name, (width, height)) = (camera.name().to_owned(), camera.size());
    let raw = match compressed_only {
        true => None,
        false => Some(transport.publisher(&format!("/{name}/image_raw"), Image::TYPE, Qos::SENSOR)?),
    };
    Ok(CameraOutput {
        frame: Frame::new(width, height),
        raw,
        compressed: transport.publisher(
            &format!("/{name}/image_raw/compressed"),
            CompressedImage::TYPE,
            Qos::SENSOR,
        )?,
        info: transport.publisher(&format!("/{name}/camera_info"), CameraInfo::TYPE, Qos::SENSOR)?,
        buffer: Vec::new(),
        camera,
    })
}

/// The robot's own limits: wider than those its commands were made with. A command that comes a moment late is followed by
/// two in one period, and a guard as narrow as the commander's would fall behind for good.
fn guard(mut limits: SafetyLimits) -> SafetyLimits {
    for joint in &mut limits.joints {
        joint.velocity_rad_s *= 2.0;
        joint.acceleration_rad_s2 *= 6.0;
        joint.jerk_rad_s3 *= 20.0;
    }
    limits
}

impl Server {
    fn stamp(&self, at: Instant) -> Stamp {
        Stamp::since_epoch(self.epoch + Duration::from_nanos(at.as_nanos())).unwrap_or_default()
    }

    fn step(&mut self, now: Instant) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Command(bytes) => self.command(&bytes, now),
                Event::NextEpisode(request) => self.next_episode(request, now),
            }
        }
        self.follow(now);
        self.world.advance_to(now);
        self.publish_state(now);
        self.publish_images(now);
        self.judge(now);
    }

    fn command(&mut self, bytes: &[u8], now: Instant) {
        let at = self.filter.motion().position_rad;
        match self.controller.take(bytes, now, &at) {
            Ok(()) => {
                self.episode.begun.get_or_insert(now);
            }
            Err(reason) => {
                self.refused += 1;
                remark!("sim        command refused: {reason}");
            }
        }
    }

    /// Each goal takes one period of the robot's own filter, as each was made for one.
    fn follow(&mut self, now: Instant) {
        let valid_until = now.saturating_add(self.spec.control.command_valid);
        let mut arm = self.world.arm();
        // Where the arm is to be when this period ends, as joint_trajectory_controller samples too.
        let ends = now.saturating_add(self.spec.control.period);
        for goal in self.controller.goals(ends, &self.world.joints_rad()) {
            let followed = self.follower.follow(&mut self.filter, now, &goal, valid_until);
            let Some((command, verdict)) = followed else { continue };
            self.limited += u64::from(matches!(verdict, Verdict::Limited { .. }));
            if let Err(error) = arm.write(now, &command) {
                remark!("sim        the arm refused a command: {error}");
            }
        }
    }

    fn next_episode(&mut self, request: Request, now: Instant) {
        let index = self.episode.index;
        let seed = self.seed + index;
        let target = task::target_of(index);
        self.world.reset(&Scene::sample(seed), now);
        self.controller.clear();
        self.follower.clear();
        let resting = self.world.arm().read(now).map(|state| state.position_rad);
        let restarted = resting.is_ok_and(|resting| self.filter.restart(&resting).is_ok());
        let judge = Judge::new(target, &self.world.cubes());
        self.episode = Episode { index: index + 1, judge, begun: None, is_over: false };
        let about = serde_json::json!({
            "seed": seed, "target": COLOURS[target], "instruction": task::instruction(seed, target),
        })
        .to_string();
        let response = Outcome { success: restarted, message: &about };
        if let Ok(bytes) = encode_into(&response, &mut self.buffer) {
            let _ = (request.answer)(bytes); // who asked may be gone
        }
    }

    fn publish_state(&mut self, now: Instant) {
        let Ok(state) = self.world.arm().read(now) else { return };
        let names: Vec<&str> = self.order.iter().map(|&joint| self.spec.joints[joint].name.as_str()).collect();
        let pick = |values: &[f64]| self.order.iter().map(|&joint| values[joint]).collect::<Vec<f64>>();
        let (position, velocity) = (pick(&state.position_rad), pick(&state.velocity_rad_s));
        let message = JointState {
            header: Header { stamp: self.stamp(state.stamp), frame_id: "" },
            name: (&names).into(),
            position: (&position).into(),
            velocity: (&velocity).into(),
            effort: Seq::default(),
        };
        send(&mut *self.states, &message, &mut self.buffer);
    }

    fn publish_images(&mut self, now: Instant) {
        for index in 0..self.cameras.len() {
            let output = &mut self.cameras[index];
            if !output.camera.capture(now, &mut output.frame).unwrap_or(false) {
                continue;
            }
            let captured = output.frame.captured;
            let stamp = self.stamp(captured);
            let output = &mut self.cameras[index];
            let Frame { width, height, data, .. } = &output.frame;
            let (width, height) = (*width, *height);
            let name = output.camera.name().to_owned();
            let header = Header { stamp, frame_id: &name };
            if let Some(raw) = &mut output.raw {
                let step = width * 3;
                let image = Image { header, height, width, encoding: "rgb8", is_bigendian: 0, step, data };
                send(&mut **raw, &image, &mut output.buffer);
            }
            if let Some(file) = png(width, height, data) {
                let image = CompressedImage { header, format: "rgb8; png compressed rgb8", data: &file };
                send(&mut *output.compressed, &image, &mut output.buffer);
            }
            // The simulated lens is not described by a calibration here: zeros say "uncalibrated".
            let info = CameraInfo { header, height, width, ..Default::default() };
            send(&mut *output.info, &info, &mut output.buffer);
        }
    }

    fn judge(&mut self, now: Instant) {
        let (Some(begun), false) = (self.episode.begun, self.episode.is_over) else { return };
        let took = now.duration_since(begun);
        let Some(outcome) = self.episode.judge.watch(took, &self.world.cubes()) else { return };
        self.episode.is_over = true;
        let seed = self.seed + self.episode.index - 1;
        let text =
            serde_json::json!({"seed": seed, "outcome": outcome.name(), "duration_s": took.as_secs_f64()}).to_string();
        remark!("sim        seed {seed}: {}", outcome.name());
        send(&mut *self.outcome, &Text { data: &text }, &mut self.buffer);
    }
}

/// A message lost here is one the network lost: the reader sees its age.
fn send<'a>(publisher: &mut dyn Publisher, message: &impl Wire<'a>, buffer: &mut Vec<u8>) {
    let sent = encode_into(message, buffer).map_err(|error| error.to_string());
    if let Err(error) = sent.and_then(|bytes| publisher.publish(bytes).map_err(|error| error.to_string())) {
        remark!("sim        {error}");
    }
}

fn png(width: u32, height: u32, rgb: &[u8]) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(rgb).ok()?;
    writer.finish().ok()?;
    Some(file)
}
