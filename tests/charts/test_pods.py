"""Every pod of the charts is as the restricted standard wants it, is probed, bounded, and stops in the right order."""

from __future__ import annotations

import re

from tests.support.charts import SERVICES, SINGLE, Charts, Objects, containers


def test_every_pod_is_restricted(objects: Objects) -> None:
    """No root, no privilege, no capability, no writable root, no token, a seccomp profile."""
    seen = 0
    for label, pod in objects.pods():
        spec = pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, label
        assert security["runAsUser"] > 0, label
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, label
        assert spec["automountServiceAccountToken"] is False, label
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), label
        assert all(not {"hostPath", "nfs"} & set(volume) for volume in spec.get("volumes", [])), label
        for container in containers(pod):
            seen += 1
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, label
    assert seen > 15
    assert all(one["automountServiceAccountToken"] is False for one in objects.kind("ServiceAccount"))


def test_every_container_is_bounded(objects: Objects) -> None:
    """Each asks for CPU and memory and may not take more memory than it says."""
    for label, pod in objects.pods():
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), f"{label} {container['name']}"
            assert "memory" in resources["limits"], f"{label} {container['name']}"
        for volume in pod["spec"].get("volumes", []):
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], label


def test_what_is_mounted_is_there_and_read_only(objects: Objects) -> None:
    """Each mount has its volume, and nothing but scratch space can be written."""
    for label, pod in objects.pods():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        claims = {"data"} if label.startswith("StatefulSet/") else set()
        for container in containers(pod):
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes.keys() | claims, f"{label} {mount}"
                kept = volumes.get(mount["name"], {})
                assert mount.get("readOnly") or "emptyDir" in kept or mount["name"] in claims, f"{label} {mount}"


def test_what_serves_is_probed(objects: Objects) -> None:
    """Startup, liveness and readiness; of services by gRPC, and none is killed for a database that is away."""
    for kind in ("Deployment", "StatefulSet"):
        for one in objects.kind(kind):
            container = one["spec"]["template"]["spec"]["containers"][0]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), one["metadata"]["name"]
    for service in SERVICES:
        container = objects.one("Deployment", service)["spec"]["template"]["spec"]["containers"][0]
        assert container["livenessProbe"]["grpc"] == {"port": 50052, "service": "live"}
        assert container["startupProbe"]["grpc"] == {"port": 50052, "service": "live"}
        assert container["readinessProbe"]["grpc"] == {"port": 50052}


def test_a_pod_has_the_time_that_its_stop_takes(objects: Objects) -> None:
    """Out of the endpoints, then NOT_SERVING, then the calls in flight: in that order, and none is cut off."""
    for service in SERVICES:
        pod = objects.one("Deployment", service)["spec"]["template"]["spec"]
        container = pod["containers"][0]
        told = {one["name"]: one["value"] for one in container["env"]}
        before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = float(told[f"{service.upper()}_DRAIN_SECONDS"])
        grace = float(told[f"{service.upper()}_GRACE_SECONDS"])
        # The edge looks each second and lets a replica go after two answers, channels are told at once.
        assert before >= 5
        assert drain >= 3
        assert pod["terminationGracePeriodSeconds"] >= before + drain + grace + 10
    edge = objects.one("Deployment", "edge")["spec"]["template"]["spec"]
    command = edge["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "edge-drain"
    assert edge["terminationGracePeriodSeconds"] >= int(command[1]) + 10


def test_a_version_comes_without_a_gap(objects: Objects) -> None:
    """A new pod is ready before an old one goes, and who scales is not overruled by the chart."""
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in objects.kind("HorizontalPodAutoscaler")}
    for one in objects.kind("Deployment"):
        name = one["metadata"]["name"]
        assert one["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}, name
        assert ("replicas" in one["spec"]) == (name not in scaled), name
        assert len(one["spec"]["template"]["spec"]["topologySpreadConstraints"]) == 2, name
    budgets = {one["metadata"]["name"] for one in objects.kind("PodDisruptionBudget")}
    assert {*SERVICES, "checker", "edge", "nats"} <= budgets


def test_selectors_find_their_pods_and_no_others(objects: Objects) -> None:
    """A Service or a budget that also found migrations would send them calls, or count them."""
    pods = {label: pod["metadata"]["labels"] for label, pod in objects.pods()}
    for one in objects.kind("Service", "PodDisruptionBudget"):
        selector = one["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        found = [label for label, labels in pods.items() if wanted.items() <= labels.items()]
        name = one["metadata"]["name"].removesuffix("-pods").removesuffix("-stable")
        assert [label.partition("/")[2] for label in found] == [name], one["metadata"]["name"]


def test_no_image_moves_by_itself(objects: Objects) -> None:
    """Each image has a tag that is a version, and a digest goes before it."""
    for label, pod in objects.pods():
        for container in containers(pod):
            assert re.search(r":v?[0-9][0-9A-Za-z.-]*$", container["image"]), f"{label} {container['image']}"


def test_a_digest_goes_before_a_tag(charts: Charts) -> None:
    """Who pins bytes gets them."""
    digest = f"sha256:{'a' * 64}"
    made = charts.render("florin", "--set", f"accounts.image.digest={digest},global.image.registry=registry.example")
    image = made.one("Deployment", "accounts")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"registry.example/florin/accounts@{digest}"


def test_images_are_pulled_as_the_umbrella_says(charts: Charts) -> None:
    """For all of Florin's at once; a service may say otherwise."""
    made = charts.render("florin", "--set", "global.image.pullPolicy=Always,accounts.image.pullPolicy=Never")
    found = {
        (label, one["image"].partition("/")[2].partition(":")[0]): one["imagePullPolicy"]
        for label, pod in made.pods()
        for one in containers(pod)
        if one["image"].startswith("florin/")
    }
    assert {policy for (_, name), policy in found.items() if name == "accounts"} == {"Never"}
    assert {policy for (_, name), policy in found.items() if name != "accounts"} == {"Always"}
    plain = charts.render("service", "--set", "service=accounts", *SINGLE).one("Deployment", "accounts")
    assert plain["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"


def test_no_secret_is_rendered(objects: Objects) -> None:
    """Secrets are made by others and named here; none is a value, so none can be read from a release."""
    assert objects.kind("Secret") == []
    for label, pod in objects.pods():
        for container in containers(pod):
            for one in container.get("env", []):
                assert not re.search(r"PASSWORD$|SECRET|TOKEN|_KEY$", one["name"]), f"{label} {one['name']}"


def test_the_evaluation_fits_a_machine_with_two_processors(charts: Charts) -> None:
    """With room for a new pod beside each old one, for DNS and for the machine itself."""
    asked = {"cpu": 0.0, "memory": 0.0}
    units = {"m": 0.001, "Mi": 1.0, "Gi": 1024.0, "": 1.0}
    for label, pod in charts.render("florin").pods():
        for name in asked if label.startswith(("Deployment/", "StatefulSet/")) else ():
            text = str(pod["spec"]["containers"][0]["resources"]["requests"][name])
            number = text.rstrip("mMGi")
            asked[name] += float(number) * units[text.removeprefix(number)]
    assert 0 < asked["cpu"] <= 1.0
    assert 0 < asked["memory"] <= 2048
