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

use crate::workload_calls::subscribe;
use crate::workloads::{Material, Subscription, Workloads};

const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The service.
#[derive(Clone)]
pub(crate) struct WorkloadApi {
    pub(crate) workloads: Workloads,
}

type Responses<T> = ReceiverStream<Result<T, Status>>;

impl WorkloadApi {
    /// A stream of what `tell` makes of each new state; nothing where it says
    /// nothing.
    fn begin<T: Send + 'static>(
        &self,
        request: &Request<impl Sized>,
        tell: impl FnMut(&Material) -> Option<T> + Send + 'static,
    ) -> Result<Response<Responses<T>>, Status> {
        check_header(request)?;
        let subscription = subscribe(&self.workloads, request)?;
        let (sender, receiver) = mpsc::channel(1);
        let counted = self.workloads.telemetry().workload_stream("workload");
        tokio::spawn(async move {
            let _counted = counted;
            follow(subscription, &sender, tell).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn follow<T>(
    mut subscription: Subscription,
    sender: &mpsc::Sender<Result<T, Status>>,
    mut tell: impl FnMut(&Material) -> Option<T>,
) {
    loop {
        let newest = tokio::select! {
            newest = subscription.next() => newest,
            () = sender.closed() => return,
        };
        let message = match newest {
            Ok(material) => match tell(&material) {
                Some(news) => Ok(news),
                None => continue,
            },
            Err(refused) => Err(Status::from(refused)),
        };
        let is_over = message.is_err();
        if sender.send(message).await.is_err() || is_over {
            return;
        }
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
        self.begin(&request, |material| Some(svids(material)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        // A new certificate is no news here.
        let mut told = None;
        self.begin(&request, move |material| {
            let is_news = told.replace(Arc::clone(&material.bundle)).as_ref() != Some(&material.bundle);
            is_news.then(|| x509_bundles_response(&material.bundle))
        })
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
            let text = refused.to_string();
            assert_eq!(Status::from(refused).code(), expected, "{text}");
        }
    }
}
