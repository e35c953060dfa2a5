//! A client that follows the protocol, in whichever order things come.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Moment(usize, Option<usize>),
    Subscribe(Vec<&'static str>),
    Unsubscribe(Vec<&'static str>),
    /// Of the newest response, or of the one before.
    Ack {
        is_late: bool,
    },
    Nack,
    /// The connection breaks: another stream, and what it has is said.
    Again,
}

fn step() -> impl Strategy<Value = Step> {
    let names = || proptest::sample::subsequence(vec!["*", PARTNER, "ROOTCA", "default", "ghost"], 1..4);
    prop_oneof![
        3 => (0usize..3, proptest::option::of(0usize..2)).prop_map(|(number, partner)| Step::Moment(number, partner)),
        2 => names().prop_map(Step::Subscribe),
        2 => names().prop_map(Step::Unsubscribe),
        1 => any::<bool>().prop_map(|is_late| Step::Ack { is_late }),
        1 => Just(Step::Nack),
        1 => Just(Step::Again),
    ]
}

/// A client that follows the protocol.
#[derive(Default)]
struct Client {
    stream: Delta,
    names: BTreeSet<String>,
    has: BTreeMap<String, String>,
    /// May be told although it was told already.
    asked: BTreeSet<String>,
    responses: Vec<DeltaDiscoveryResponse>,
}

impl Client {
    /// All of it, on a new stream.
    fn begin(&mut self) {
        self.stream = Delta::default();
        self.responses.clear();
        self.asked.clear();
        if self.names.is_empty() {
            // To begin without a name would ask for all.
            self.has.clear();
            return;
        }
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: self.names.iter().cloned().collect(),
            initial_resource_versions: self.has.clone().into_iter().collect(),
            ..subscribing(&[])
        };
        self.stream.request(request).unwrap();
    }

    fn say(&mut self, mut request: DeltaDiscoveryRequest) {
        if let Some(last) = self.responses.last() {
            request.response_nonce.clone_from(&last.nonce);
        }
        self.stream.request(request).unwrap();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Moment(..) => {}
            Step::Subscribe(names) if self.names.is_empty() => {
                self.names.extend(texts(&names));
                self.begin();
            }
            Step::Subscribe(names) => {
                self.names.extend(texts(&names));
                self.asked.extend(texts(&names));
                self.say(subscribing(&names));
            }
            Step::Unsubscribe(names) if !self.names.is_empty() => {
                for name in &names {
                    self.names.remove(*name);
                    self.has.remove(*name);
                }
                if !self.names.contains("*") {
                    self.has.retain(|name, _| self.names.contains(name));
                }
                self.say(unsubscribing(&names));
                // A client without names ends its stream.
                if self.names.is_empty() {
                    self.begin();
                }
            }
            Step::Unsubscribe(_) => {}
            Step::Ack { is_late } => {
                let back = if is_late { 1 } else { 0 };
                if let Some(response) = self.responses.iter().rev().nth(back) {
                    self.stream.request(ack(response)).unwrap();
                }
            }
            Step::Nack => {
                if let Some(response) = self.responses.last() {
                    self.stream.request(nack(response)).unwrap();
                }
            }
            Step::Again => self.begin(),
        }
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        for resource in &response.resources {
            let had = self.has.insert(resource.name.clone(), resource.version.clone());
            let is_again = had.as_ref() == Some(&resource.version);
            assert!(self.asked.contains(&resource.name) || !is_again, "{}", resource.name);
        }
        for name in &response.removed_resources {
            self.has.remove(name);
        }
        self.asked.clear();
        self.responses.push(response);
    }

    fn wanted(&self, now: &Material) -> BTreeMap<String, String> {
        let mut names = self.names.clone();
        if names.remove("*") {
            names.extend(known(now));
        }
        let versions = names.into_iter().map(|name| (version(&name, now), name));
        versions.filter_map(|(version, name)| Some((name, version?))).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    /// Whatever comes in whichever order: the client has the newest of what it
    /// subscribes to and nothing else, and is sent nothing that it has, unless
    /// it asks for it again.
    #[test]
    fn a_client_always_has_the_newest_of_what_it_subscribes_to(steps in proptest::collection::vec(step(), 1..40)) {
        let mut client = Client::default();
        let mut now = moment(0, None);
        for step in steps {
            if let Step::Moment(number, partner) = step {
                now = moment(number, partner);
            }
            client.step(step);
            match client.stream.respond(&now) {
                Ok(response) => {
                    if let Some(response) = response {
                        client.take(response);
                    }
                    prop_assert!(is_quiet(&mut client.stream, &now));
                    prop_assert_eq!(&client.has, &client.wanted(&now));
                }
                // The stream has ended: the client begins another one.
                Err(_) => {
                    prop_assert!(client.wanted(&now).is_empty() && !client.names.is_empty());
                    client.begin();
                }
            }
        }
    }
}
