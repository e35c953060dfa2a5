//! Who takes part.

use anyhow::Result;

use crate::load::{Load, Seen};
use crate::mesh::Sidecars;
use crate::network::Cores;
use crate::pair::{Form, Pair};

/// Whose proxies are on the hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    Watchword,
    Envoy(Form),
    /// No proxy: what the load, the network and the server take.
    Plain,
}

/// In the order of the table.
pub(crate) const CONTENDERS: [Contender; 5] = [
    Contender::Watchword,
    Contender::Envoy(Form::Http1),
    Contender::Envoy(Form::Http2),
    Contender::Envoy(Form::Tcp),
    Contender::Plain,
];

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Watchword => "Watchword",
            Self::Envoy(Form::Http1) => "Envoy, HTTP/1.1 between",
            Self::Envoy(Form::Http2) => "Envoy, HTTP/2 between",
            Self::Envoy(Form::Tcp) => "Envoy, client's side as TCP",
            Self::Plain => "no proxies",
        }
    }
}

/// All of them, running.
pub(crate) struct Bed {
    sidecars: Sidecars,
    pair: Pair,
}

impl Bed {
    pub(crate) fn start(cores: Cores) -> Result<Self> {
        let pair = Pair::start(cores)?;
        let sidecars = Sidecars::start(cores)?;
        Ok(Self { sidecars, pair })
    }

    /// Whether each is what it says.
    pub(crate) fn check(&self) -> Result<()> {
        self.pair.check()?;
        self.sidecars.check()
    }

    pub(crate) fn load(&self, contender: Contender, load: Load) -> Result<Seen> {
        match contender {
            Contender::Watchword => self.sidecars.load(load),
            Contender::Envoy(form) => self.pair.load(Some(form), load),
            Contender::Plain => self.pair.load(None, load),
        }
    }

    /// Seconds of CPU of the proxies: the client's side, the server's.
    pub(crate) fn cpu(&self, contender: Contender) -> Result<[f64; 2]> {
        match contender {
            Contender::Watchword => self.sidecars.cpu(),
            Contender::Envoy(_) => self.pair.cpu(),
            Contender::Plain => Ok([0.0; 2]),
        }
    }
}
