//! Who takes part.

use anyhow::{Context, Result};
use watchword_benches::held::Held;

use crate::load::{Load, Seen};
use crate::mesh::Sidecars;
use crate::network::Cores;
use crate::pairs::Pairs;

/// Whose proxies are on the hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    Watchword,
    Envoy,
    Haproxy,
    Nginx,
    /// HAProxy on both sides, without TLS.
    Floor,
    /// The same, where connections are redirected to it as to our sidecars: what
    /// interception costs anybody.
    Redirected,
    /// [`crate::least`], redirected, with a tunnel for each open stream.
    Least,
    /// The same with one tunnel for all streams.
    Shared,
    /// With TLS, and a tunnel for each open stream.
    Encrypted,
    /// No proxy: what the load, the network and the server take.
    Plain,
    /// Of here on both sides, or one, know HTTP.
    WatchwordHttp,
    EnvoyHttp1,
    EnvoyHttp2,
    /// Its client's side carries bytes.
    EnvoyHalf,
}

/// Connection by connection, in the order of the table.
pub(crate) const TCP: [Contender; 10] = [
    Contender::Watchword,
    Contender::Envoy,
    Contender::Haproxy,
    Contender::Nginx,
    Contender::Floor,
    Contender::Redirected,
    Contender::Least,
    Contender::Shared,
    Contender::Encrypted,
    Contender::Plain,
];
/// Request by request.
pub(crate) const HTTP: [Contender; 4] = [
    Contender::WatchwordHttp,
    Contender::EnvoyHttp1,
    Contender::EnvoyHttp2,
    Contender::EnvoyHalf,
];
/// Those that Watchword is to beat: with mutual TLS, connection by connection.
pub(crate) const RIVALS: [Contender; 3] = [Contender::Envoy, Contender::Haproxy, Contender::Nginx];
/// Those that both judge requests, as in a mesh of Envoys.
pub(crate) const HTTP_RIVALS: [Contender; 2] = [Contender::EnvoyHttp1, Contender::EnvoyHttp2];

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Watchword => "Watchword",
            Self::Envoy => "Envoy",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Floor => "floor: HAProxy without TLS",
            Self::Redirected => "floor, redirected",
            Self::Least => "the least, redirected",
            Self::Shared => "the least, one tunnel",
            Self::Encrypted => "the least, encrypted",
            Self::Plain => "no proxies",
            Self::WatchwordHttp => "Watchword, HTTP",
            Self::EnvoyHttp1 => "Envoy, HTTP/1.1 between",
            Self::EnvoyHttp2 => "Envoy, HTTP/2 between",
            Self::EnvoyHalf => "Envoy, client's side as TCP",
        }
    }

    /// Whether it is made for requests alone.
    pub(crate) fn is_least(self) -> bool {
        matches!(self, Self::Least | Self::Shared | Self::Encrypted)
    }

    pub(crate) fn is_redirected(self) -> bool {
        self == Self::Redirected || self.is_least()
    }

    pub(crate) fn is_watchword(self) -> bool {
        matches!(self, Self::Watchword | Self::WatchwordHttp)
    }
}

/// Those that take part, running.
pub(crate) struct Bed {
    sidecars: Option<Sidecars>,
    pairs: Option<Pairs>,
    /// In a network of its own: where there are such rules, the kernel tracks
    /// everybody's connections.
    redirected: Option<Pairs>,
}

impl Bed {
    pub(crate) fn start(cores: Cores, contenders: &[Contender]) -> Result<Self> {
        let (ours, others): (Vec<Contender>, Vec<Contender>) =
            contenders.iter().partition(|contender| contender.is_watchword());
        let (redirected, others): (Vec<Contender>, Vec<Contender>) =
            others.into_iter().partition(|contender| contender.is_redirected());
        let pairs = |of: &[Contender]| match of {
            [] => Ok(None),
            _ => Pairs::start(cores, of).map(Some),
        };
        let (pairs, redirected) = (pairs(&others)?, pairs(&redirected)?);
        let sidecars = if ours.is_empty() {
            None
        } else {
            Some(Sidecars::start(cores, 2)?)
        };
        Ok(Self {
            sidecars,
            pairs,
            redirected,
        })
    }

    /// Whether each is what it says.
    pub(crate) fn check(&self) -> Result<()> {
        for pairs in [&self.pairs, &self.redirected].into_iter().flatten() {
            pairs.check()?;
        }
        self.sidecars.as_ref().map_or(Ok(()), Sidecars::check)
    }

    pub(crate) fn load(&self, contender: Contender, load: Load) -> Result<Seen> {
        let seen = if contender.is_watchword() {
            self.ours()?.load(contender, load)
        } else {
            self.others(contender)?.load(contender, load)
        };
        seen.with_context(|| format!("{}: {}", contender.name(), load.name()))
    }

    /// Opens so many connections, which stay open.
    pub(crate) fn hold(&self, contender: Contender, count: usize) -> Result<Held> {
        let held = if contender.is_watchword() {
            self.ours()?.hold(count)
        } else {
            self.others(contender)?.hold(contender, count)
        };
        held.with_context(|| format!("{}: {count} connections", contender.name()))
    }

    /// Processes of the proxies: the client's side, the server's. None where
    /// there are no proxies.
    pub(crate) fn pids(&self, contender: Contender) -> Result<Option<[i64; 2]>> {
        if contender.is_watchword() {
            return Ok(Some(self.ours()?.pids()));
        }
        self.others(contender)?.pids(contender)
    }

    fn ours(&self) -> Result<&Sidecars> {
        self.sidecars.as_ref().context("Watchword was not started")
    }

    fn others(&self, contender: Contender) -> Result<&Pairs> {
        let pairs = match contender {
            _ if contender.is_redirected() => &self.redirected,
            _ => &self.pairs,
        };
        pairs.as_ref().context("the contender was not started")
    }
}
