//! The conversations that are played in both worlds.

/// One conversation; see `Talk::step` for its steps and the program
/// `watchword-peer` for its commands.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Cases of a group share their processes and are played one after the
    /// other; groups are played at the same time.
    pub(crate) group: usize,
    pub(crate) script: &'static str,
}

const fn case(group: usize, name: &'static str, script: &'static str) -> Case {
    Case { name, group, script }
}

/// On a network that is as it should be. What a side has seen arrive before a
/// reset is said first: a reset may overtake what is still on its way, with
/// and without us.
pub(crate) const CASES: &[Case] = &[
    case(
        0,
        "the caller ends its half first, then reads the answer",
        "open
        begin server read
        caller send 100000
        caller end
        finish server
        server send 50000
        server close
        caller read
        caller close",
    ),
    case(
        0,
        "the server ends its half first, then reads",
        "open
        server send 50000
        server end
        caller read
        begin server read
        caller send 100000
        caller close
        finish server
        server close",
    ),
    case(
        0,
        "both end at once",
        "open
        both exchange 300000
        both close",
    ),
    case(
        0,
        "both end at once without a byte",
        "open
        both exchange 0
        both close",
    ),
    case(
        0,
        "the server speaks first and closes",
        "open
        server send 1000
        server close
        caller read
        caller push",
    ),
    case(
        0,
        "the caller connects and closes",
        "open
        caller close
        server read
        server push",
    ),
    case(
        0,
        "the caller ends its half at once, and gets an answer",
        "open
        caller end
        server read
        server send 10
        server close
        caller read",
    ),
    case(
        0,
        "the server closes at once",
        "open
        server close
        caller read
        caller push",
    ),
    case(
        0,
        "the caller goes on while the server has ended its half, and the server then closes",
        "open
        server end
        caller read
        caller send 1000
        server take 1000
        server close
        caller push",
    ),
    case(
        1,
        "one byte at a time",
        "open
        begin server take 5000
        caller trickle 5000
        finish server
        begin caller read
        server trickle 5000
        server close
        finish caller",
    ),
    case(
        2,
        "an idle caller resets",
        "open
        caller reset
        server read",
    ),
    case(
        2,
        "an idle server resets",
        "open
        server reset
        caller read",
    ),
    case(
        2,
        "the caller resets behind its bytes",
        "open
        caller send 1000
        server take 1
        caller reset
        server read",
    ),
    case(
        2,
        "the server resets behind its bytes",
        "open
        server send 1000
        caller take 1
        server reset
        caller read",
    ),
    case(
        2,
        "the caller resets after it has ended its half",
        "open
        caller send 1000
        caller end
        server read
        caller reset
        server watch
        server push",
    ),
    case(
        2,
        "the server resets after it has ended its half",
        "open
        server send 1000
        server end
        caller read
        server reset
        caller watch
        caller push",
    ),
    case(
        2,
        "the caller resets while it is being sent to",
        "open
        begin server push
        caller take 1000000
        caller reset
        finish server
        server close",
    ),
    case(
        2,
        "the server resets while it is being sent to",
        "open
        begin caller push
        server take 1000000
        server reset
        finish caller
        caller close",
    ),
    case(
        2,
        "the server closes with unread bytes",
        "open
        caller send 1000
        server take 10
        server send 500
        server close
        caller read",
    ),
    case(
        2,
        "the caller closes with unread bytes",
        "open
        server send 1000
        caller take 10
        caller send 500
        caller close
        server read",
    ),
    case(
        2,
        "the caller closes with unread bytes after it has ended its half",
        "open
        caller end
        server read
        server send 1000
        caller take 10
        caller close
        server watch",
    ),
    case(
        2,
        "the server closes with unread bytes after it has ended its half",
        "open
        server end
        caller read
        caller send 1000
        server take 10
        server close
        caller watch",
    ),
    case(
        2,
        "the server answers and closes in the midst of an upload",
        "open
        caller fill
        server take 100000
        server send 1000
        caller take 1
        begin caller push
        server close
        finish caller
        caller read",
    ),
    case(
        2,
        "the caller says a last word and closes in the midst of a download",
        "open
        server fill
        caller take 100000
        caller send 1000
        server take 1
        begin server push
        caller close
        finish server
        server read",
    ),
    case(
        3,
        "a slow server with a small buffer",
        "server buffer 4096
        open
        begin server sip
        caller send 2000000
        caller end
        finish server
        server close",
    ),
    case(
        3,
        "a slow caller with a small buffer",
        "caller buffer 4096
        open
        begin caller sip
        server send 2000000
        server end
        finish caller
        server close",
    ),
    case(
        3,
        "a slow caller that has ended its half takes all that a server left when it closed",
        "open
        caller end
        server read
        server fill
        server close
        caller sip
        caller close",
    ),
    case(
        3,
        "a slow server that has ended its half takes all that a caller left when it closed",
        "open
        server end
        caller read
        caller fill
        caller close
        server sip
        server close",
    ),
    case(
        4,
        "a server pauses while the caller waits for it",
        "open
        begin caller send 200000000
        pause
        server take 1000000
        pause
        begin server read
        finish caller
        caller end
        finish server
        server send 1000
        server close
        caller read",
    ),
    case(
        4,
        "a caller pauses while the server waits for it",
        "open
        begin server send 200000000
        pause
        begin caller read
        finish server
        server close
        finish caller
        caller close",
    ),
    case(
        5,
        "a server pauses while the caller fills all buffers and ends its half",
        "open
        caller fill
        caller end
        pause
        server read
        server send 1000
        server close
        caller read",
    ),
    case(
        5,
        "a caller pauses while the server fills all buffers and closes",
        "open
        server fill
        server close
        pause
        caller read
        caller close",
    ),
    case(
        5,
        "a caller that has ended its half pauses while the server fills all buffers and closes",
        "open
        caller send 1000
        caller end
        server read
        server fill
        server close
        pause
        caller read
        caller close",
    ),
    case(
        6,
        "a server pauses while the caller fills all buffers and resets",
        "open
        caller fill
        caller reset
        pause
        server drain",
    ),
    case(
        6,
        "a caller pauses while the server fills all buffers and resets",
        "open
        server fill
        server reset
        pause
        caller drain",
    ),
    case(
        6,
        "the reset of a caller that has filled all buffers reaches a server that does not read",
        "open
        caller fill
        caller reset
        server watch
        server push",
    ),
    case(
        6,
        "the reset of a server that has filled all buffers reaches a caller that does not read",
        "open
        server fill
        server reset
        caller watch
        caller push",
    ),
    case(
        6,
        "a server pauses while the caller fills all buffers, ends its half and resets",
        "open
        caller fill
        caller end
        pause
        caller reset
        server watch",
    ),
    case(
        6,
        "both fill all buffers, pause, and read",
        "open
        both fill
        pause
        both end
        begin server read
        caller read
        finish server",
    ),
    case(
        7,
        "much each way at once",
        "open
        both exchange BULK
        both close",
    ),
];

/// In these the server's network falls silent.
pub(crate) const SILENT: &[Case] = &[
    case(
        0,
        "a network that falls silent for a while loses nothing",
        "open
        caller fill
        vanish
        begin server read
        pause
        return
        caller send 1000
        caller end
        finish server
        server send 1000
        server close
        caller read",
    ),
    case(
        0,
        "a server that vanishes without a word is not seen as an end",
        "open
        caller send 1000
        server take 1000
        server send 1000
        caller take 1000
        vanish
        server die
        caller send 1000
        caller quiet 4000
        return",
    ),
];
