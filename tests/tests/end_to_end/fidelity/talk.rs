//! A conversation of two `watchword-peer`s, and what they report of it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::fidelity::worlds::{self, World};

/// For anything that a side waits for, beyond pauses that are meant.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One side.
pub(crate) struct Peer {
    child: Child,
    /// Closing it ends the program.
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
    patience: Duration,
}

impl Peer {
    pub(crate) fn start(mut command: Command, patience: Duration) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let commands = child.stdin.take();
        let (sender, answers) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut peer = Self {
            child,
            commands,
            answers,
            patience: patience * 2,
        };
        assert_eq!(peer.answer(), "ready");
        peer
    }

    /// One command and its answer.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        let answer = self.answers.recv_timeout(self.patience);
        answer.unwrap_or_else(|error| format!("NO ANSWER: {error}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both sides, with what each has sent.
pub(crate) struct Talk<'a> {
    world: &'a dyn World,
    pair: usize,
    pause: Duration,
    pub(crate) caller: Peer,
    pub(crate) server: Peer,
    /// By caller and server, as they said.
    sent: [String; 2],
}

impl<'a> Talk<'a> {
    pub(crate) fn begin(world: &'a dyn World, pair: usize, port: u16, pause: Duration) -> Self {
        let patience = PATIENCE + pause;
        let seconds = patience.as_secs().to_string();
        let address = format!("{}:{port}", world.address(pair));
        let server = ["listen", &format!("0.0.0.0:{port}"), &seconds];
        Self {
            server: Peer::start(world.server(pair, &server), patience),
            caller: Peer::start(world.caller(pair, &["call", &address, &seconds]), patience),
            world,
            pair,
            pause,
            sent: Default::default(),
        }
    }

    /// Plays one step; what there is to report of it. Steps:
    /// - `open`: the caller connects, the server accepts;
    /// - `caller COMMAND`, `server COMMAND`: done when it is answered;
    /// - `begin caller COMMAND`, and later `finish caller`;
    /// - `both COMMAND`: at once;
    /// - `pause`; `vanish`: the server's network falls silent, and `return`.
    fn step(&mut self, step: &str) -> Vec<String> {
        let words: Vec<_> = step.splitn(2, ' ').collect();
        match words[..] {
            ["open"] => {
                self.sent = Default::default();
                ["begin server open", "caller open", "finish server"]
                    .iter()
                    .flat_map(|step| self.step(step))
                    .collect()
            }
            ["pause"] => {
                wait(self.pause);
                Vec::new()
            }
            ["vanish"] => {
                worlds::fall_silent(self.world, self.pair);
                Vec::new()
            }
            ["return"] => {
                worlds::recover(self.world, self.pair);
                Vec::new()
            }
            ["both", command] => {
                let begun = ["caller", "server"].map(|side| self.step(&format!("begin {side} {command}")));
                assert!(begun.iter().all(Vec::is_empty));
                ["finish caller", "finish server"]
                    .iter()
                    .flat_map(|step| self.step(step))
                    .collect()
            }
            ["begin", rest] => {
                let (side, command) = rest.split_once(' ').unwrap();
                self.side(side).0.tell(command);
                Vec::new()
            }
            ["finish", side] => vec![self.report(side)],
            [side, "die"] => {
                self.side(side).0.tell("die");
                let status = self.side(side).0.child.wait().unwrap();
                vec![format!("  {side}: {status}")]
            }
            [side, command] => {
                self.side(side).0.tell(command);
                vec![self.report(side)]
            }
            _ => panic!("{step}: no such step"),
        }
    }

    fn side(&mut self, side: &str) -> (&mut Peer, usize) {
        match side {
            "caller" => (&mut self.caller, 0),
            "server" => (&mut self.server, 1),
            _ => panic!("{side}: no such side"),
        }
    }

    /// How many bytes went before they stood still is a matter of buffers: what
    /// was taken is compared to what was sent.
    fn report(&mut self, side: &str) -> String {
        let (peer, index) = self.side(side);
        let answer = peer.answer();
        let other = &self.sent[1 - index];
        let shown = if let Some(count) = answer.strip_prefix("sent ") {
            self.sent[index] = count.to_owned();
            "sent".to_owned()
        } else if let Some(rest) = answer.strip_prefix("took ").filter(|rest| !rest.starts_with("some")) {
            let (count, then) = rest.split_once(',').map_or((rest, ""), |(count, then)| (count, then));
            let all = count == other || (count == "0" && other.is_empty());
            format!(
                "took {}{}{then}",
                if all { "all" } else { count },
                if then.is_empty() { "" } else { "," }
            )
        } else {
            answer
        };
        format!("  {side}: {shown}")
    }
}

/// Plays a script, a step per line, and returns all reports.
pub(crate) fn transcript(talk: &mut Talk<'_>, script: &str) -> String {
    let mut text = String::new();
    for step in script.lines().map(str::trim).filter(|step| !step.is_empty()) {
        text += &format!("{step}\n");
        for report in talk.step(step) {
            text += &report;
            text.push('\n');
        }
    }
    text
}

#[allow(clippy::disallowed_methods, reason = "time that passes is what is tested")]
fn wait(duration: Duration) {
    std::thread::sleep(duration);
}
