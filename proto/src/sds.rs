//! Envoy's SDS messages, from what a workload is to have.

use pem::Pem;
use prost_types::Any;
use watchword_identity::{Root, Svid, TrustDomain};

use crate::generated::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use crate::generated::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret::Type,
    spiffe_cert_validator_config::TrustDomain as DomainRoots,
};
pub use crate::generated::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
pub use crate::generated::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
pub use crate::generated::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
pub use crate::generated::google::rpc::Status as ErrorDetail;

/// The type of each resource (xDS, "type URL").
pub const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
/// As Envoy names its extension.
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// A secret in a response.
#[derive(Clone, PartialEq)]
pub struct Packed(Any);

impl From<Packed> for Any {
    fn from(packed: Packed) -> Self {
        packed.0
    }
}

/// An SVID with its key (PKCS#8, DER) under a name.
pub fn tls_certificate(name: &str, svid: &Svid, key: &[u8]) -> Packed {
    let certificate = TlsCertificate {
        certificate_chain: inline(certificates(svid.chain().iter().map(AsRef::as_ref))),
        private_key: inline(pem::encode(&Pem::new("PRIVATE KEY", key))),
    };
    packed(name, Type::TlsCertificate(certificate))
}

/// Whom to trust, under a name: Envoy's SPIFFE certificate validator, so that
/// roots of one trust domain never vouch for an ID of another.
pub fn validation_context<'a>(name: &str, domains: impl IntoIterator<Item = (&'a TrustDomain, &'a [Root])>) -> Packed {
    let trust_domains = domains.into_iter().map(|(domain, roots)| DomainRoots {
        name: domain.to_string(),
        trust_bundle: inline(certificates(roots.iter().map(|root| root.certificate().as_ref()))),
    });
    let validator = SpiffeCertValidatorConfig {
        trust_domains: trust_domains.collect(),
    };
    let context = CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR.to_owned(),
            typed_config: Some(any(VALIDATOR_TYPE, &validator)),
        }),
    };
    packed(name, Type::ValidationContext(context))
}

fn packed(name: &str, secret: Type) -> Packed {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(secret),
    };
    Packed(any(SECRET_TYPE, &secret))
}

fn any(type_url: &str, message: &impl prost::Message) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}

fn certificates<'a>(chain: impl Iterator<Item = &'a [u8]>) -> String {
    let pems: Vec<Pem> = chain.map(|der| Pem::new("CERTIFICATE", der)).collect();
    pem::encode_many(&pems)
}

fn inline(text: String) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineBytes(text.into_bytes())),
    })
}
