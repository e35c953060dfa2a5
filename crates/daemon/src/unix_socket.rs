//! What Linux asks of Unix sockets.

/// Bytes of the longest path, without the zero byte at its end (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;
