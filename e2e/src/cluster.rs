//! A cluster as tests and commands see it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;

use crate::component::Role;
use crate::error::{Error, with_causes};
use crate::host::{Host, HostCommand, Plan};
use crate::namespaces::on_a_thread;
use crate::options::{self, Options};
use crate::paths::{self, Paths};
use crate::process::ProcessId;
use crate::progress::Progress;
use crate::state::{self, State};
use crate::{addresses, certificates, client, down, images, kubeconfig, requirements, up};

/// A Kubernetes cluster on this machine. Dropping it leaves it running: see [`Temporary`].
#[derive(Clone, Debug)]
pub struct Cluster {
    plan: Arc<Plan>,
    holders: BTreeMap<Role, ProcessId>,
}

impl Cluster {
    /// Brings a cluster up, with all that is missing for it, and returns when all nodes are Ready.
    /// On an error nothing is left behind.
    pub fn up(options: &Options, progress: &Progress) -> Result<Self, Error> {
        // The caller may be in a tokio runtime, within which none can be started.
        on_a_thread(|| up::bring_up(options, None, progress))
    }

    /// The cluster of this name, which somebody else has brought up.
    pub fn attach(name: &str) -> Result<Self, Error> {
        requirements::check_root()?;
        options::check_name(name)?;
        let paths = Paths::of(name);
        match State::read(&paths)? {
            Some(state) if state.is_in_use(&paths) => Ok(Self::of(state.options, paths)),
            _ => {
                let others = Self::all()?.into_iter();
                Err(state::Error::NotThere {
                    name: name.to_owned(),
                    others: others.map(|other| other.options().name.clone()).collect(),
                }
                .into())
            }
        }
    }

    /// All clusters that are up.
    pub fn all() -> Result<Vec<Self>, Error> {
        requirements::check_root()?;
        let clusters = state::names().into_iter().filter_map(|name| {
            let paths = Paths::of(&name);
            let state = State::read(&paths).ok()??;
            state
                .is_in_use(&paths)
                .then(|| Self::of(state.options, paths))
        });
        Ok(clusters.collect())
    }

    /// The names of those that are not up but have a folder: an `up` or `down` is at work on them, or one
    /// that was killed has left them.
    pub fn incomplete() -> Result<Vec<String>, Error> {
        requirements::check_root()?;
        let mut names = state::names();
        names.retain(|name| {
            let paths = Paths::of(name);
            !State::read(&paths)
                .is_ok_and(|state| state.is_some_and(|state| state.is_in_use(&paths)))
        });
        Ok(names)
    }

    /// Takes the cluster down: nothing of it is left.
    pub fn down(self) -> Result<(), Error> {
        Self::down_by_name(&self.plan.options.name)?;
        Ok(())
    }

    /// Takes down what there is of a cluster of this name, complete or not, and says whether there
    /// was anything.
    pub fn down_by_name(name: &str) -> Result<bool, Error> {
        requirements::check_root()?;
        options::check_name(name)?;
        Ok(down::take_down(&Paths::of(name), name)?)
    }

    /// Reads the records of the hosts' holders.
    pub(crate) fn of(options: Options, paths: Paths) -> Self {
        let holders = Role::all(options.nodes)
            .filter_map(|role| Some((role, ProcessId::recorded(&paths.holder(role))?)))
            .collect();
        let plan = Arc::new(Plan { options, paths });
        Self { plan, holders }
    }

    /// What it was brought up with.
    pub fn options(&self) -> &Options {
        &self.plan.options
    }

    pub(crate) fn paths(&self) -> &Paths {
        &self.plan.paths
    }

    /// A host by its role.
    pub(crate) fn host_of(&self, role: Role) -> Host {
        // One without a holder cannot be entered, which is said when it is tried.
        let holder = self.holders.get(&role).copied().unwrap_or(ProcessId::NONE);
        Host::new(Arc::clone(&self.plan), role, holder)
    }

    /// The host outside the nodes' subnets.
    pub fn client(&self) -> Host {
        self.host_of(Role::Client)
    }

    /// The host of etcd, API server, controllers and scheduler.
    pub fn control_plane(&self) -> Host {
        self.host_of(Role::ControlPlane)
    }

    /// A node by its number, from 1.
    ///
    /// # Panics
    /// If the cluster has no such node.
    pub fn node(&self, number: usize) -> Host {
        let nodes = self.plan.options.nodes;
        assert!(
            (1..=nodes).contains(&number),
            "there is no node {number} among {nodes}"
        );
        self.host_of(Role::Node(number))
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<Host> {
        (1..=self.plan.options.nodes)
            .map(|number| self.node(number))
            .collect()
    }

    /// All hosts but the switch.
    pub fn hosts(&self) -> Vec<Host> {
        let roles = Role::all(self.plan.options.nodes);
        roles
            .filter(|role| *role != Role::Switch)
            .map(|role| self.host_of(role))
            .collect()
    }

    /// A host by its name.
    pub fn host(&self, name: &str) -> Result<Host, Error> {
        let hosts = self.hosts();
        let names = hosts.iter().map(Host::name).collect();
        let found = hosts.into_iter().find(|host| host.name() == name);
        found.ok_or_else(|| Error::NoSuchHost {
            name: name.to_owned(),
            names,
        })
    }

    /// A kubectl command, as the administrator.
    pub fn kubectl_command(&self) -> HostCommand {
        let mut kubectl = self.control_plane().command(paths::kubernetes("kubectl"));
        kubectl
            .env("KUBECONFIG", self.kubeconfig())
            // Else it would write to the user's home.
            .env("KUBECACHEDIR", self.paths().folder().join("kubectl-cache"));
        kubectl
    }

    /// Runs kubectl as the administrator and returns what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, Error> {
        Ok(self.kubectl_command().args(arguments).text()?)
    }

    /// The administrator's kubeconfig. It works on the cluster's hosts alone.
    pub fn kubeconfig(&self) -> PathBuf {
        self.paths().kubeconfig(certificates::ADMIN.kubeconfig)
    }

    /// `https://` URL of the API server, as the cluster's hosts reach it.
    pub fn server(&self) -> String {
        addresses::api_server(self.options().ip_family)
    }

    /// The certificate of the authority that signed the API server's.
    pub fn certificate_authority(&self) -> PathBuf {
        self.paths().certificates().join("ca.crt")
    }

    /// A client with the administrator's rights, for a process in the real host's network. To be
    /// called within a tokio runtime.
    pub fn kube(&self) -> Result<kube::Client, Error> {
        self.kube_as(&self.kubeconfig())
    }

    /// A client with the rights of the user in a kubeconfig of this cluster. To be called within a
    /// tokio runtime.
    pub fn kube_as(&self, kubeconfig: &Path) -> Result<kube::Client, Error> {
        let token = kubeconfig::token(kubeconfig)?;
        Ok(client::build(
            &self.control_plane(),
            &self.server(),
            &self.certificate_authority(),
            token,
        )?)
    }

    /// A kubeconfig with which a process on a host is the ServiceAccount. It is good for a day.
    pub fn kubeconfig_for_service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, Error> {
        let token = on_a_thread(|| {
            client::runtime()?.block_on(async {
                let accounts: Api<ServiceAccount> = Api::namespaced(self.kube()?, namespace);
                let request = TokenRequest {
                    spec: TokenRequestSpec {
                        expiration_seconds: Some(24 * 3600),
                        ..TokenRequestSpec::default()
                    },
                    ..TokenRequest::default()
                };
                let created = accounts
                    .create_token_request(name, &PostParams::default(), &request)
                    .await;
                let answer = created.map_err(Error::ask("make a token"))?;
                Ok::<_, Error>(answer.status.map(|status| status.token).unwrap_or_default())
            })
        })?;
        let user = format!("{namespace}.{name}");
        let path = self.paths().kubeconfig(&user);
        let content =
            kubeconfig::render(&self.server(), &self.certificate_authority(), &user, &token);
        crate::files::write(&path, content)?;
        Ok(path)
    }

    /// Loads images into every node, from docker-archives or OCI archives.
    pub fn load(&self, archives: &[&Path]) -> Result<(), Error> {
        Ok(images::load(&self.nodes(), archives)?)
    }

    /// Gives a node a second address, which all hosts then reach there. The Node's status does not
    /// tell of it.
    pub fn add_address(&self, node: &Host, address: IpAddr) -> Result<(), Error> {
        node.put_address(address)?;
        for host in self
            .hosts()
            .iter()
            .filter(|host| host.role() != node.role())
        {
            host.ip(&crate::network::add_route(address))?;
        }
        Ok(())
    }
}

/// A cluster that is taken down when this is dropped, also by a panic. If the process is killed, the
/// next cluster of the name clears it away.
#[derive(Debug)]
pub struct Temporary(Cluster);

impl Temporary {
    /// As [`Cluster::up`].
    pub fn up(options: &Options, progress: &Progress) -> Result<Self, Error> {
        on_a_thread(|| up::bring_up(options, ProcessId::current(), progress)).map(Self)
    }
}

impl Deref for Temporary {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let name = &self.0.options().name;
        if let Err(error) = Cluster::down_by_name(name) {
            // To whom it may concern: there may be nobody.
            let error = with_causes(&error);
            let _ = writeln!(io::stderr(), "cannot take cluster `{name}` down: {error}");
        }
    }
}
