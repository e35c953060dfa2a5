//! Nonces, and what a client has said of the last response: the same for both
//! kinds of streams (xDS protocol, "ACK/NACK and resource type instance
//! version").

use watchword_proto::sds::ErrorDetail;

/// Longest reason of a client that is logged, in bytes.
const MAX_REASON: usize = 512;

/// The responses of one stream.
#[derive(Debug, Default)]
pub(super) struct Answers {
    sent: u64,
    rejected: Option<u64>,
}

/// What a request says of the last response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The first request, an ACK, or one that says nothing of it.
    Fine,
    /// A NACK, with the client's reason. It is told once for each response.
    Rejected { reason: String, is_news: bool },
    /// It is about an earlier response: an answer to the last one will come.
    Stale,
}

impl Answers {
    /// For the next response.
    pub(super) fn next_nonce(&mut self) -> String {
        self.sent += 1;
        self.sent.to_string()
    }

    /// What a request says.
    pub(super) fn read(&mut self, nonce: &str, error: Option<&ErrorDetail>) -> Said {
        // A client that has come back from another stream may show its nonce first.
        if !nonce.is_empty() && self.sent > 0 && nonce != self.sent.to_string() {
            return Said::Stale;
        }
        let Some(error) = error.filter(|_| !nonce.is_empty()) else {
            return Said::Fine;
        };
        let is_news = self.rejected.replace(self.sent) != Some(self.sent);
        let reason = error.message.chars().filter(|c| !c.is_control()).collect::<String>();
        let end = reason.floor_char_boundary(MAX_REASON);
        Said::Rejected {
            reason: reason.get(..end).unwrap_or_default().to_owned(),
            is_news,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(message: &str) -> ErrorDetail {
        ErrorDetail {
            code: 3,
            message: message.into(),
        }
    }

    #[test]
    fn a_rejection_is_news_once_for_each_response() {
        let mut answers = Answers::default();
        assert_eq!(answers.read("", None), Said::Fine);
        assert_eq!(answers.next_nonce(), "1");
        assert_eq!(answers.read("1", None), Said::Fine);
        assert_eq!(answers.next_nonce(), "2");
        assert_eq!(answers.read("1", None), Said::Stale);
        let rejected = |is_news| Said::Rejected {
            reason: "bad key".into(),
            is_news,
        };
        assert_eq!(answers.read("2", Some(&error("bad\n key"))), rejected(true));
        assert_eq!(answers.read("2", Some(&error("bad key"))), rejected(false));
        assert_eq!(answers.next_nonce(), "3");
        assert_eq!(answers.read("2", Some(&error("bad key"))), Said::Stale);
        assert_eq!(answers.read("3", Some(&error("bad key"))), rejected(true));
    }

    #[test]
    fn a_clients_reason_is_cut() {
        let mut answers = Answers::default();
        let nonce = answers.next_nonce();
        let said = answers.read(&nonce, Some(&error(&"é".repeat(10_000))));
        assert!(matches!(said, Said::Rejected { reason, .. } if reason.len() <= MAX_REASON));
    }
}
