//! The SPIFFE Workload API: X.509-SVIDs and bundles for go-spiffe, `spiffe`
//! and every other client of the standard.
//!
//! Invariant: a call without the security header gets nothing (SPIFFE Workload
//! Endpoint, section 3): so no page in a browser, and no proxy that forwards
//! whatever it is sent, can be made to ask for us.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use watchword_proto::workload_api::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, SpiffeWorkloadApi, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
    x509_bundles_response, x509_svid_response,
};

use crate::workload_calls::{status_of, subscribe};
use crate::workloads::{Material, Subscription, Workloads};

const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The service.
#[derive(Clone)]
pub(crate) struct WorkloadApi {
    pub(crate) workloads: Workloads,
}

type Responses<T> = ReceiverStream<Result<T, Status>>;

impl WorkloadApi {
    /// A stream that tells each state that differs from the last one.
    fn begin<T: Send + 'static>(
        &self,
        request: &Request<impl Sized>,
        told: Told<T>,
    ) -> Result<Response<Responses<T>>, Status> {
        check_header(request)?;
        let subscription = subscribe(&self.workloads, request)?;
        let (sender, receiver) = mpsc::channel(1);
        let counted = self.workloads.telemetry().workload_stream("workload");
        tokio::spawn(async move {
            let _counted = counted;
            follow(subscription, &sender, told).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// What a stream is about. What was told is kept as it was shared, not as a
/// message: that has a private key in it.
struct Told<T> {
    message: fn(&Material) -> T,
    is_same: fn(&Material, &Material) -> bool,
}

async fn follow<T>(mut subscription: Subscription, sender: &mpsc::Sender<Result<T, Status>>, told: Told<T>) {
    let mut last: Option<Arc<Material>> = None;
    loop {
        let newest = tokio::select! {
            newest = subscription.next() => newest,
            () = sender.closed() => return,
        };
        let material = match newest {
            Ok(material) => material,
            Err(refused) => {
                let _ = sender.send(Err(status_of(&refused))).await;
                return;
            }
        };
        let is_known = last.as_ref().is_some_and(|last| (told.is_same)(last, &material));
        if !is_known && sender.send(Ok((told.message)(&material))).await.is_err() {
            return;
        }
        last = Some(material);
    }
}

fn check_header(request: &Request<impl Sized>) -> Result<(), Status> {
    match request.metadata().get(SECURITY_HEADER) {
        Some(value) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument(
            "the security header is missing: send `workload.spiffe.io: true` as metadata of the call",
        )),
    }
}

fn svids(material: &Material) -> X509svidResponse {
    let svids = material.svids.iter().map(|held| (&held.svid, held.key.as_slice()));
    x509_svid_response(svids, &material.bundle)
}

fn bundles(material: &Material) -> X509BundlesResponse {
    x509_bundles_response(&material.bundle)
}

fn no_jwt<T>(request: &Request<impl Sized>) -> Result<Response<T>, Status> {
    check_header(request)?;
    Err(Status::unimplemented(
        "JWT-SVIDs are not issued here: use FetchX509SVID and FetchX509Bundles",
    ))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Responses<X509svidResponse>;
    type FetchX509BundlesStream = Responses<X509BundlesResponse>;
    type FetchJWTBundlesStream = Responses<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.begin(
            &request,
            Told {
                message: svids,
                // Each material that is published differs in something of this.
                is_same: |_, _| false,
            },
        )
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.begin(
            &request,
            Told {
                message: bundles,
                is_same: |last, new| last.bundle == new.bundle,
            },
        )
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        no_jwt(&request)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        no_jwt(&request)
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        no_jwt(&request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Code;

    use super::*;
    use crate::workloads::{Failure, Refused};

    fn call(header: Option<&'static str>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(value) = header {
            request
                .metadata_mut()
                .insert(SECURITY_HEADER, tonic::metadata::MetadataValue::from_static(value));
        }
        request
    }

    /// SPIFFE Workload Endpoint, sections 3 and 6.
    #[test]
    fn a_call_without_the_security_header_in_its_one_form_is_an_invalid_argument() {
        assert!(check_header(&call(Some("true"))).is_ok());
        for header in [None, Some(""), Some("True"), Some("TRUE"), Some("1"), Some("false")] {
            let refused = check_header(&call(header)).map_err(|status| status.code());
            assert_eq!(refused, Err(Code::InvalidArgument), "{header:?}");
        }
    }

    #[test]
    fn what_concerns_jwts_is_unimplemented_and_asks_for_the_header_first() {
        let code = |header| no_jwt::<()>(&call(header)).map(|_| ()).map_err(|status| status.code());
        assert_eq!(code(Some("true")), Err(Code::Unimplemented));
        assert_eq!(code(None), Err(Code::InvalidArgument));
    }

    /// SPIFFE Workload Endpoint, section 6 and Appendix A: a client goes by the
    /// code when it decides whether to ask again.
    #[test]
    fn each_refusal_has_the_code_of_the_standard() {
        let failed = |denied| {
            let reason = Arc::from("why");
            Refused::Failed(Failure { denied, reason })
        };
        let table = [
            (Refused::NotEntitled(7), Code::PermissionDenied),
            (failed(true), Code::PermissionDenied),
            (failed(false), Code::Unavailable),
            (Refused::NoIdentityYet, Code::Unavailable),
            (Refused::NoAnswer, Code::Unavailable),
            (Refused::Stopping, Code::Unavailable),
            (Refused::TooManyCallers(512), Code::Unavailable),
            (Refused::TooManyStreams(2048), Code::Unavailable),
        ];
        for (refused, expected) in table {
            assert_eq!(status_of(&refused).code(), expected, "{refused}");
        }
    }
}
