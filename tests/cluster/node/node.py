"""The node itself: control plane, container runtime, kubelet, proxy, DNS, and volumes; everything in one folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local.processes import free_port
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import machine, programs
from tests.cluster.node.authority import Authority
from tests.cluster.node.images import OURS, REGISTRY, Builder, Sources
from tests.cluster.node.programs import Programs

NAME = "node"
DNS = "198.19.77.10"
_LINKS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
_VOLUMES = 3
_DNS = Path(__file__).with_name("dns.yaml")
_READY = ("get", "nodes", "--output=jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}")


@dataclass(frozen=True, slots=True)
class Node:
    """A node that runs."""

    kubectl: Kubectl
    builder: Builder


@contextmanager
def running(sources: Sources) -> Iterator[Node]:
    """A node, Ready and with DNS, whose images are those that the builder pushes. Raises AssertionError."""
    machine.require()
    folder = Path(tempfile.mkdtemp(prefix="florin-node-"))
    with machine.reserved(folder, sources.cache), programs.running(folder / "logs") as started:
        machine.make_bridge()
        builder = Builder(started, folder, sources)
        builder.official()
        authority = Authority(folder / "pki")
        url = _api_server(started, folder, sources, authority)
        kubectl = Kubectl(folder / "bin" / "kubectl", authority.kubeconfig("admin", url, "admin", "system:masters"))
        _runtime(started, folder)
        started.wait("an API server", lambda: kubectl("get", "--raw=/readyz", check=False) == "ok")
        _controllers(started, folder, authority, url)
        _kubelet(started, folder, authority, url)
        kubectl.apply([*yaml.safe_load_all(_DNS.read_text()), *_storage(folder)])
        started.wait("a node that is ready", lambda: kubectl(*_READY, check=False) == "True")
        kubectl("rollout", "status", "--namespace=kube-system", "deployment/coredns", "--timeout=120s")
        yield Node(kubectl, builder)


def _api_server(started: Programs, folder: Path, sources: Sources, authority: Authority) -> str:
    """etcd and the API server. Gives its address."""
    binaries = folder / "bin"
    binaries.mkdir()
    for name in _LINKS:
        (binaries / name).symlink_to(sources.programs / "kubernetes")
    port, store, peers = free_port(), free_port(), free_port()
    url = f"https://{machine.ADDRESS}:{port}"
    inside = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    certificate, key = authority.issue("server", "kube-apiserver", addresses=(*inside, machine.ADDRESS, "198.19.77.1"))
    client, client_key = authority.issue("kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
    accounts, accounts_key = authority.issue("accounts", "service-accounts")
    started.start(
        "etcd",
        *(binaries / "etcd", "--data-dir", folder / "etcd", "--unsafe-no-fsync", "--log-level=error"),
        *(f"--listen-client-urls=http://127.0.0.1:{store}", f"--advertise-client-urls=http://127.0.0.1:{store}"),
        *(f"--listen-peer-urls=http://127.0.0.1:{peers}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}"),
        f"--initial-cluster=default=http://127.0.0.1:{peers}",
    )
    started.start(
        "kube-apiserver",
        *(binaries / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{store}", f"--secure-port={port}"),
        *(f"--bind-address={machine.ADDRESS}", f"--service-cluster-ip-range={machine.SERVICES}"),
        *(f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"),
        *(f"--client-ca-file={authority.certificate}", "--authorization-mode=Node,RBAC"),
        *(f"--kubelet-client-certificate={client}", f"--kubelet-client-key={client_key}"),
        *(f"--kubelet-certificate-authority={authority.certificate}", "--kubelet-preferred-address-types=InternalIP"),
        "--service-account-issuer=https://kubernetes.default.svc",
        *(f"--service-account-key-file={accounts.with_suffix('.pub')}",),
        f"--service-account-signing-key-file={accounts_key}",
    )
    return url


def _controllers(started: Programs, folder: Path, authority: Authority, url: str) -> None:
    """The controllers and the scheduler, which do not wait for the server by themselves."""
    controllers = (
        f"--root-ca-file={authority.certificate}",
        f"--service-account-private-key-file={folder / 'pki' / 'accounts.key'}",
        "--use-service-account-credentials",
    )
    for part, more in (("kube-controller-manager", controllers), ("kube-scheduler", ())):
        conf = authority.kubeconfig(part, url, f"system:{part}")
        started.start(
            part,
            *(folder / "bin" / part, f"--kubeconfig={conf}", f"--authentication-kubeconfig={conf}"),
            *(f"--authorization-kubeconfig={conf}", "--leader-elect=false", "--bind-address=127.0.0.1"),
            *more,
        )


def _runtime(started: Programs, folder: Path) -> None:
    """containerd with runc, and the network of its pods; what it pulls from Docker Hub comes from our registry."""
    network = {
        "cniVersion": "1.0.0",
        "name": "florin",
        "plugins": [
            {
                "type": "bridge",
                "bridge": machine.BRIDGE,
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder / "addresses"),
                    "ranges": [[{"subnet": machine.PODS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            # Also where the machine forwards nothing by itself, as it is once Docker ran.
            {"type": "firewall", "backend": "iptables"},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (folder / "network").mkdir()
    (folder / "network" / "10-florin.conflist").write_text(json.dumps(network))
    mirror = folder / "registries" / "docker.io"
    mirror.mkdir(parents=True)
    (mirror / "hosts.toml").write_text(
        f'server = "http://{REGISTRY}"\n[host."http://{REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    (folder / "containerd.toml").write_text(f'''
version = 2
root = "{folder}/containers"
state = "{folder}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{OURS["pause"]}"
  disable_apparmor = true
  # Where this machine lacks CAP_SYS_RESOURCE, nothing may be protected from being killed for memory.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{folder}/registries"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{machine.PLUGINS}"
  conf_dir = "{folder}/network"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
''')
    started.start("containerd", "containerd", "--config", folder / "containerd.toml")
    started.wait("a container runtime", (folder / "containerd.sock").exists)


def _kubelet(started: Programs, folder: Path, authority: Authority, url: str) -> None:
    """kubelet and kube-proxy."""
    certificate, key = authority.issue("kubelet-server", NAME, addresses=(NAME, machine.ADDRESS))
    of_kubelet = authority.kubeconfig("kubelet", url, f"system:node:{NAME}", "system:nodes")
    of_proxy = authority.kubeconfig("kube-proxy", url, "system:kube-proxy")
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": machine.ADDRESS,
        # Who has a certificate of the node's own authority is the API server.
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(authority.certificate)}},
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "podLogsDir": str(folder / "pod-logs"),
        "staticPodPath": "",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(folder / "resolv.conf"),
        "serializeImagePulls": False,
        "maxParallelImagePulls": 2,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(of_proxy)},
        "mode": "iptables",
        "hostnameOverride": NAME,
        "clusterCIDR": machine.PODS,
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0},
    }
    (folder / "resolv.conf").write_text("")
    (folder / "kubelet.json").write_text(json.dumps(kubelet))
    (folder / "kube-proxy.json").write_text(json.dumps(proxy))
    binaries = folder / "bin"
    started.start(
        "kubelet",
        *(binaries / "kubelet", f"--config={folder / 'kubelet.json'}", f"--kubeconfig={of_kubelet}"),
        *(f"--hostname-override={NAME}", f"--node-ip={machine.ADDRESS}", f"--root-dir={folder / 'kubelet'}"),
    )
    started.start("kube-proxy", binaries / "kube-proxy", f"--config={folder / 'kube-proxy.json'}")


def _storage(folder: Path) -> Iterator[dict[str, Any]]:
    """Volumes that are folders here, by the default class; `local` ones, since others ignore the pods' group."""
    name = "local"
    yield {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}]}
    for number in range(_VOLUMES):
        place = folder / "volumes" / str(number)
        place.mkdir(parents=True)
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"local-{number}"},
            "spec": {
                "capacity": {"storage": "20Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": name,
                "local": {"path": str(place)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
            },
        }
