//! What every daemon of the project needs, whoever it is: a clock, shutdown,
//! readiness, logs, metrics and the pages that show them, and traces.
//!
//! Invariants: knows none of the project's other crates, and nothing of
//! identities, policies or tunnels, whose names are texts here.

mod clock;
mod health;
mod logs;
mod metrics;
mod process;
mod readiness;
mod shutdown;
mod traces;
mod trouble;
mod unix_socket;

pub use clock::{Clock, ManualClock, SystemClock, sleep_until};
pub use health::{Page, Pages, serve_pages};
pub use logs::init_tracing;
pub use metrics::{Metrics, MetricsError};
pub use process::{is_near_descriptor_limit, prepare_process};
pub use readiness::{Blocker, Readiness};
pub use shutdown::Shutdown;
pub use traces::{Asked, RequestSpan, TraceId, TraceSettings, Traces};
pub use trouble::{Trouble, explain};
pub use unix_socket::MAX_SOCKET_PATH;
