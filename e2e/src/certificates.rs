//! The cluster's keys: one authority, what it signs, the key pair of ServiceAccount tokens, and the
//! tokens of everybody else.
//!
//! Who serves TLS gets a certificate from here instead of making one at its start: that would cost
//! each component an RSA key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::addresses::{self, API_SERVICE_IPV4, API_SERVICE_IPV6};
use crate::component::Role;
use crate::files;
use crate::options::IpFamily;

/// The token of the cluster's administrator.
pub(crate) const ADMIN: User = User {
    kubeconfig: "admin",
    name: "admin",
    group: "system:masters",
};

/// Users of the control plane and of kube-proxy. The bootstrap RBAC rules know these names.
pub(crate) const COMPONENTS: [User; 3] = [
    User {
        kubeconfig: "kube-controller-manager",
        name: "system:kube-controller-manager",
        // All controllers are this user, so it has the rights of all of them.
        group: "system:masters",
    },
    User {
        kubeconfig: "kube-scheduler",
        name: "system:kube-scheduler",
        group: "",
    },
    User {
        kubeconfig: "kube-proxy",
        name: "system:kube-proxy",
        group: "",
    },
];

/// Somebody who shows a token to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User<Text = &'static str> {
    /// The name of the kubeconfig.
    pub(crate) kubeconfig: Text,
    /// As RBAC knows it.
    pub(crate) name: Text,
    /// As RBAC knows it; empty for none.
    pub(crate) group: Text,
}

impl<Text: AsRef<str>> User<Text> {
    /// Nobody outside the cluster's own namespaces can reach the API server to try it.
    pub(crate) fn token(&self) -> String {
        format!("token-of-{}", self.kubeconfig.as_ref())
    }

    fn line(&self) -> String {
        let (name, group) = (self.name.as_ref(), self.group.as_ref());
        format!("{},{name},{name},{group}\n", self.token())
    }
}

/// The user that a node's kubelet is.
pub(crate) fn node_user(number: usize) -> User<String> {
    let node = Role::Node(number).to_string();
    User {
        name: format!("system:node:{node}"),
        kubeconfig: node,
        group: "system:nodes".to_owned(),
    }
}

/// The API server's `--token-auth-file`: token, user, uid and group of each.
pub(crate) fn token_file(nodes: usize) -> String {
    let fixed = COMPONENTS.iter().chain([&ADMIN]).map(User::line);
    let nodes = (1..=nodes).map(|number| node_user(number).line());
    fixed.chain(nodes).collect()
}

/// Writes `ca.crt`, `apiserver.{crt,key}`, `kubelet-client.{crt,key}`, `component.{crt,key}`,
/// `node-N.{crt,key}` and `service-account.{pub,key}`.
pub(crate) fn write_all(folder: &Path, nodes: usize, family: IpFamily) -> Result<(), Error> {
    let authority = authority()?;
    files::write(&folder.join("ca.crt"), authority.pem())?;

    let mut api_server = addresses::all(Role::ControlPlane, family);
    api_server.extend([
        IpAddr::V4(API_SERVICE_IPV4),
        IpAddr::V6(API_SERVICE_IPV6),
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ]);
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
    ];
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    write_signed(
        folder,
        "apiserver",
        &authority,
        subject("kube-apiserver", ""),
        &api_server,
        &names,
        server.clone(),
    )?;

    // With this one the API server asks kubelets for logs and for exec.
    let client = subject("apiserver-kubelet-client", "system:masters");
    write_signed(
        folder,
        "kubelet-client",
        &authority,
        client,
        &[],
        &[],
        ExtendedKeyUsagePurpose::ClientAuth,
    )?;

    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
    write_signed(
        folder,
        "component",
        &authority,
        subject("component", ""),
        &loopback,
        &["localhost"],
        server.clone(),
    )?;
    for node in (1..=nodes).map(Role::Node) {
        let name = node.to_string();
        let own = addresses::all(node, family);
        write_signed(
            folder,
            &name,
            &authority,
            subject(&name, ""),
            &own,
            &[&name],
            server.clone(),
        )?;
    }

    let service_accounts = KeyPair::generate().map_err(Error::Generate)?;
    files::write(
        &folder.join("service-account.key"),
        service_accounts.serialize_pem(),
    )?;
    files::write(
        &folder.join("service-account.pub"),
        service_accounts.public_key_pem(),
    )?;
    Ok(())
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("svclb-e2e", "");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(Error::Generate)?;
    CertifiedIssuer::self_signed(params, key).map_err(Error::Generate)
}

/// A common name, which is the user, and an organization, which is the group.
fn subject(common_name: &str, organization: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    if !organization.is_empty() {
        subject.push(DnType::OrganizationName, organization);
    }
    subject
}

fn write_signed(
    folder: &Path,
    file: &str,
    authority: &CertifiedIssuer<'_, KeyPair>,
    subject: DistinguishedName,
    addresses: &[IpAddr],
    names: &[&str],
    purpose: ExtendedKeyUsagePurpose,
) -> Result<(), Error> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(Error::Generate)?;
    params.distinguished_name = subject;
    let addresses = addresses.iter().map(|address| SanType::IpAddress(*address));
    params.subject_alt_names.extend(addresses);
    params.extended_key_usages = vec![purpose];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(Error::Generate)?;
    let certificate = params.signed_by(&key, authority).map_err(Error::Generate)?;
    files::write(&folder.join(format!("{file}.crt")), certificate.pem())?;
    files::write(&folder.join(format!("{file}.key")), key.serialize_pem())?;
    Ok(())
}

/// Why the keys could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or a certificate.
    #[error("cannot make the cluster's certificates")]
    Generate(#[source] rcgen::Error),
    /// The file that it goes to.
    #[error(transparent)]
    File(#[from] files::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_a_line_in_the_token_file() {
        assert_eq!(
            token_file(1),
            "token-of-kube-controller-manager,system:kube-controller-manager,system:kube-controller-manager,system:masters\n\
             token-of-kube-scheduler,system:kube-scheduler,system:kube-scheduler,\n\
             token-of-kube-proxy,system:kube-proxy,system:kube-proxy,\n\
             token-of-admin,admin,admin,system:masters\n\
             token-of-node-1,system:node:node-1,system:node:node-1,system:nodes\n"
        );
    }
}
