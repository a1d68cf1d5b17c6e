"""USB devices as the kernel lists them (sysfs), without a library."""

from dataclasses import dataclass
from pathlib import Path

USB_DEVICES = Path("/sys/bus/usb/devices")


@dataclass(frozen=True)
class UsbDevice:
    """One device: where it hangs (``2-1.4``), its ids (hex digits), serial ('' if none) and link speed in Mbit/s."""

    path: str
    vendor: str
    product: str
    serial: str
    speed_mbps: float

    @property
    def bus(self) -> str:
        """The root hub: devices with the same one share its bandwidth."""
        return self.path.partition("-")[0]


def list_usb(root: Path = USB_DEVICES) -> list[UsbDevice]:
    """Every USB device with a vendor id; an empty list where there is no USB."""
    found = []
    for folder in sorted(root.glob("*")) if root.is_dir() else []:
        vendor = _read(folder / "idVendor")
        if vendor:
            found.append(
                UsbDevice(
                    path=folder.name,
                    vendor=vendor,
                    product=_read(folder / "idProduct"),
                    serial=_read(folder / "serial"),
                    speed_mbps=_number(_read(folder / "speed")),
                )
            )
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
