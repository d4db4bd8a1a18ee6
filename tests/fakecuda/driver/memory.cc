// Device memory, registered host memory, and the copies between them.
#include "world.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>

namespace fakecuda {

constexpr uint64_t page = 4096;
constexpr uint8_t fresh = 0xA5;  // what new memory holds: not zeros
constexpr uint8_t canary = 0x5E; // between the end of an allocation and that of its page
constexpr uint8_t early = 0xCC;  // the target of a copy to the host, until the copy runs

static void *at(uint64_t address) { return reinterpret_cast<void *>(address); }

EXPORT int cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
	Call call("cuMemGetInfo", true);
	*free_bytes = call.w.memory - call.w.used;
	*total = call.w.memory;
	return call.code;
}

EXPORT int cuMemAlloc_v2(uint64_t *address, size_t bytes)
{
	Call call("cuMemAlloc", true);
	*address = 0;
	if (call.code != OK || bytes == 0)
		return call.code != OK ? call.code : int(INVALID_VALUE);
	if (bytes > call.w.memory - call.w.used)
		return OUT_OF_MEMORY;
	uint64_t mapped = (bytes + page - 1) / page * page;
	void *p = mmap(nullptr, mapped + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return OUT_OF_MEMORY;
	uint64_t a = reinterpret_cast<uint64_t>(p) + page;
	mprotect(at(a), mapped, PROT_READ | PROT_WRITE);
	const uint64_t fill_max = 1 << 20; // large memory stays untouched, and takes no room
	if (bytes <= fill_max)
		memset(at(a), fresh, bytes);
	memset(at(a + bytes), canary, mapped - bytes);
	call.w.allocations[a] = {call.context, bytes, mapped};
	call.w.used += bytes;
	call.w.peak_device = std::max(call.w.peak_device, call.w.used);
	*address = a;
	return OK;
}

// idle checks that the host has waited for all work on memory that it takes away.
static void idle(Call &call, uint64_t address, uint64_t bytes, const char *what)
{
	std::string wrong = call.w.order.access(address, bytes, true, 0, call.w.host, what);
	if (!wrong.empty())
		call.w.violate(call.context, wrong);
	call.w.order.forget(address, bytes);
	call.w.drain(call.lock, call.context);
}

std::map<uint64_t, Allocation>::iterator World::unmap(std::map<uint64_t, Allocation>::iterator i)
{
	order.forget(i->first, i->second.bytes);
	munmap(at(i->first - page), i->second.mapped + 2 * page);
	used -= i->second.bytes;
	return allocations.erase(i);
}

EXPORT int cuMemFree_v2(uint64_t address)
{
	Call call("cuMemFree", true);
	auto i = call.w.allocations.find(address);
	if (i == call.w.allocations.end()) {
		call.w.violate(call.context, "freed memory that is not allocated: " + hex(address));
		return call.refuse(INVALID_VALUE);
	}
	idle(call, address, i->second.bytes, "cuMemFree");
	i = call.w.allocations.find(address); // the lock was open
	if (i == call.w.allocations.end())
		return INVALID_VALUE;
	const uint8_t *end = static_cast<uint8_t *>(at(address + i->second.mapped));
	for (const uint8_t *p = static_cast<uint8_t *>(at(address + i->second.bytes)); p < end; p++)
		if (*p != canary) {
			call.w.violate(call.context, "something wrote behind the end of " +
				std::to_string(i->second.bytes) + " bytes of device memory");
			break;
		}
	call.w.unmap(i);
	return call.code;
}

EXPORT int cuMemHostRegister_v2(void *p, size_t bytes, unsigned)
{
	Call call("cuMemHostRegister", true);
	uint64_t a = reinterpret_cast<uint64_t>(p);
	if (call.code != OK || bytes == 0)
		return call.code != OK ? call.code : int(INVALID_VALUE);
	auto next = call.w.registrations.lower_bound(a);
	if ((next != call.w.registrations.end() && next->first < a + bytes) ||
		(next != call.w.registrations.begin() && a < std::prev(next)->first + std::prev(next)->second.bytes))
		return ALREADY_REGISTERED;
	call.w.registrations[a] = {call.context, bytes};
	call.w.peak_host = std::max(call.w.peak_host, call.w.locked());
	return OK;
}

EXPORT int cuMemHostUnregister(void *p)
{
	Call call("cuMemHostUnregister", true);
	uint64_t a = reinterpret_cast<uint64_t>(p);
	auto i = call.w.registrations.find(a);
	if (i == call.w.registrations.end())
		return call.code != OK ? call.code : int(NOT_REGISTERED);
	idle(call, a, i->second.bytes, "cuMemHostUnregister");
	call.w.registrations.erase(a);
	return call.code;
}

// device_side checks memory that an op of a stream uses on the device.
static bool device_side(Call &call, uint64_t address, uint64_t bytes, const std::string &what)
{
	if (call.w.allocated(address, bytes))
		return true;
	call.w.violate(call.context, what + " of " + std::to_string(bytes) + " bytes at " + hex(address) +
		", which are not allocated device memory");
	return false;
}

static bool host_side(Call &call, uint64_t address, uint64_t bytes, const std::string &what)
{
	if (call.w.registered(address, bytes))
		return true;
	call.w.violate(call.context, what + " is asynchronous, and its " + std::to_string(bytes) +
		" bytes of host memory at " + hex(address) + " are pageable, not registered");
	return false;
}

EXPORT int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream *s)
{
	Call call("cuMemsetD8Async", true);
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.streams, s, "stream") || !device_side(call, to, bytes, "a memset"))
		return call.refuse(INVALID_VALUE);
	call.w.begin(s);
	call.w.access(s, to, bytes, true, "a memset on " + s->name());
	Op op;
	op.run = [=] {
		memset(at(to), value, bytes);
		return std::string();
	};
	call.w.push(s, std::move(op));
	return OK;
}

EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *s)
{
	Call call("cuMemcpyHtoDAsync", true);
	uint64_t src = reinterpret_cast<uint64_t>(from);
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.streams, s, "stream"))
		return call.refuse(INVALID_HANDLE);
	const std::string what = "the copy to the device on " + s->name();
	if (!device_side(call, to, bytes, what) || !host_side(call, src, bytes, what))
		return call.refuse(INVALID_VALUE);
	call.w.begin(s);
	call.w.access(s, src, bytes, false, what);
	call.w.access(s, to, bytes, true, what);
	bool settled = !call.w.touched(src, bytes, true); // the host's bytes are those to be copied
	uint64_t want = settled ? hash(from, bytes) : 0;
	Op op;
	op.run = [=] {
		memcpy(at(to), from, bytes);
		if (settled && hash(at(to), bytes) != want)
			return "early reuse: " + std::to_string(bytes) + " bytes of host memory at " + hex(src) +
				" were changed before " + what + " had run";
		return std::string();
	};
	op.touch = call.w.touches.insert(call.w.touches.end(), {src, bytes, false});
	op.touches = true;
	call.w.push(s, std::move(op));
	return OK;
}

EXPORT int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *s)
{
	Call call("cuMemcpyDtoHAsync", true);
	uint64_t dst = reinterpret_cast<uint64_t>(to);
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.streams, s, "stream"))
		return call.refuse(INVALID_HANDLE);
	const std::string what = "the copy to the host on " + s->name();
	if (!device_side(call, from, bytes, what) || !host_side(call, dst, bytes, what))
		return call.refuse(INVALID_VALUE);
	call.w.begin(s);
	call.w.access(s, from, bytes, false, what);
	call.w.access(s, dst, bytes, true, what);
	if (!call.w.touched(dst, bytes, false))
		memset(to, early, bytes);
	Op op;
	op.run = [=] {
		memcpy(to, at(from), bytes);
		return std::string();
	};
	op.touch = call.w.touches.insert(call.w.touches.end(), {dst, bytes, true});
	op.touches = true;
	call.w.push(s, std::move(op));
	return OK;
}

EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream *s)
{
	Call call("cuMemcpyDtoDAsync", true);
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.streams, s, "stream"))
		return call.refuse(INVALID_HANDLE);
	const std::string what = "the copy within the device on " + s->name();
	if (!device_side(call, from, bytes, what) || !device_side(call, to, bytes, what))
		return call.refuse(INVALID_VALUE);
	if (from < to + bytes && to < from + bytes)
		call.w.violate(call.context, what + " overlaps itself");
	call.w.begin(s);
	call.w.access(s, from, bytes, false, what);
	call.w.access(s, to, bytes, true, what);
	Op op;
	op.run = [=] {
		memmove(at(to), at(from), bytes);
		return std::string();
	};
	call.w.push(s, std::move(op));
	return OK;
}

// fakecuda_host_access tells that the host is about to read or write registered memory.
EXPORT void fakecuda_host_access(uint64_t address, uint64_t bytes, int write)
{
	World &w = world();
	std::unique_lock<std::mutex> lock(w.m);
	std::string wrong = w.order.access(address, bytes, write != 0, 0, w.host, "the host");
	Context *c = nullptr;
	for (const auto &r : w.registrations)
		if (r.first <= address && address < r.first + r.second.bytes)
			c = r.second.context;
	if (!wrong.empty())
		w.violate(c, wrong);
}

} // namespace fakecuda
