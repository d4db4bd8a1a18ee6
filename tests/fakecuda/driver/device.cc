// Devices, contexts and errors.
#include "world.h"

#include <algorithm>
#include <cstring>

namespace fakecuda {

EXPORT int cuInit(unsigned flags)
{
	Call call("cuInit", false);
	if (call.code != OK || flags != 0)
		return call.code != OK ? call.code : int(INVALID_VALUE);
	if (call.w.devices == 0)
		return NO_DEVICE;
	call.w.initialized = true;
	return OK;
}

EXPORT int cuDriverGetVersion(int *version)
{
	Call call("cuDriverGetVersion", false);
	*version = call.w.version;
	return call.code;
}

// ready is the common beginning of calls about a device.
static int ready(const Call &call, int device)
{
	if (call.code != OK)
		return call.code;
	if (!call.w.initialized)
		return NOT_INITIALIZED;
	return device >= 0 && device < call.w.devices ? OK : INVALID_DEVICE;
}

EXPORT int cuDeviceGetCount(int *count)
{
	Call call("cuDeviceGetCount", false);
	*count = call.w.devices;
	return ready(call, 0);
}

EXPORT int cuDeviceGet(int *device, int ordinal)
{
	Call call("cuDeviceGet", false);
	*device = ordinal;
	return ready(call, ordinal);
}

EXPORT int cuDeviceGetName(char *name, int bytes, int device)
{
	Call call("cuDeviceGetName", false);
	strncpy(name, "stand-in, no GPU", bytes);
	if (bytes > 0)
		name[bytes - 1] = 0;
	return ready(call, device);
}

EXPORT int cuDeviceGetUuid(uint8_t *uuid, int device)
{
	Call call("cuDeviceGetUuid", false);
	for (int i = 0; i < 16; i++)
		uuid[i] = uint8_t(0xFA + 16 * device + i);
	return ready(call, device);
}

EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
	Call call("cuDeviceTotalMem", false);
	*bytes = call.w.memory;
	return ready(call, device);
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device)
{
	Call call("cuDeviceGetAttribute", false);
	switch (attribute) {
	case 16: *value = 4; break; // processors
	case 75: *value = call.w.capability / 10; break;
	case 76: *value = call.w.capability % 10; break;
	case 91: *value = call.w.host_pointer; break; // registered memory has one address
	default:
		*value = 0;
		return call.code != OK ? call.code : int(INVALID_VALUE);
	}
	return ready(call, device);
}

EXPORT int cuDevicePrimaryCtxRetain(Context **c, int device)
{
	Call call("cuDevicePrimaryCtxRetain", false);
	*c = nullptr;
	if (int r = ready(call, device))
		return r;
	Context *p = &call.w.contexts[device];
	if (p->references++ == 0)
		p->device = device, p->broken = OK, p->dead = false;
	*c = p;
	return OK;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int device)
{
	Call call("cuDevicePrimaryCtxRelease", false);
	if (device < 0 || device >= devices_max || call.w.contexts[device].references == 0)
		return INVALID_CONTEXT;
	Context *c = &call.w.contexts[device];
	if (c->references == 1)
		call.w.destroy(call.lock, c);
	c->references--;
	return call.code;
}

// reclaim takes back what a dead context held, which the program could not give back.
void World::reclaim(std::unique_lock<std::mutex> &lock, Context *c)
{
	std::vector<Stream *> ending;
	for (Stream *s : streams)
		if (s->context == c)
			ending.push_back(s);
	for (Stream *s : ending)
		end(lock, s);
	auto erase = [c](auto &set) {
		for (auto i = set.begin(); i != set.end();)
			if ((*i)->context == c) {
				delete *i;
				i = set.erase(i);
			} else {
				++i;
			}
	};
	erase(events);
	erase(modules);
	erase(blas); // handles; a descriptor is of no context
	for (auto i = allocations.begin(); i != allocations.end();)
		i = i->second.context == c ? unmap(i) : std::next(i);
	for (auto i = registrations.begin(); i != registrations.end();)
		if (i->second.context == c) {
			order.forget(i->first, i->second.bytes);
			i = registrations.erase(i);
		} else {
			++i;
		}
}

// destroy ends what a context holds. What the program has not given back is a leak, also after a
// failure.
void World::destroy(std::unique_lock<std::mutex> &lock, Context *c)
{
	drain(lock, c);
	if (c->dead)
		reclaim(lock, c);
	c->broken = OK;
	for (auto &lost : lost_who) { // what they touched is gone with the context
		host.resize(std::max<size_t>(host.size(), lost.first + 1));
		host[lost.first] = std::max(host[lost.first], lost.second);
		free_who.push_back(lost.first);
	}
	lost_who.clear();
	std::string left;
	for (Stream *s : streams)
		left += s->context == c ? ", a stream" : "";
	for (Event *e : events)
		left += e->context == c ? ", an event" : "";
	for (Module *e : modules)
		left += e->context == c ? ", a module" : "";
	for (BlasObject *b : blas)
		left += b->context == c ? ", a handle of cuBLASLt" : "";
	for (const auto &a : allocations)
		left += a.second.context == c ? ", " + std::to_string(a.second.bytes) + " bytes" : "";
	for (const auto &r : registrations)
		left += r.second.context == c ? ", a registration" : "";
	if (!left.empty())
		violate(nullptr, "a context is released, and left" + left.substr(1));
}

EXPORT int cuGetErrorName(int code, const char **name)
{
	static const std::map<int, const char *> names = {{0, "CUDA_SUCCESS"},
		{1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"},
		{3, "CUDA_ERROR_NOT_INITIALIZED"}, {4, "CUDA_ERROR_DEINITIALIZED"},
		{34, "CUDA_ERROR_STUB_LIBRARY"}, {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
		{100, "CUDA_ERROR_NO_DEVICE"}, {101, "CUDA_ERROR_INVALID_DEVICE"},
		{201, "CUDA_ERROR_INVALID_CONTEXT"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
		{214, "CUDA_ERROR_ECC_UNCORRECTABLE"}, {218, "CUDA_ERROR_INVALID_PTX"},
		{221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND"}, {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
		{400, "CUDA_ERROR_INVALID_HANDLE"}, {500, "CUDA_ERROR_NOT_FOUND"},
		{600, "CUDA_ERROR_NOT_READY"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
		{701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"}, {702, "CUDA_ERROR_LAUNCH_TIMEOUT"},
		{710, "CUDA_ERROR_ASSERT"}, {716, "CUDA_ERROR_MISALIGNED_ADDRESS"},
		{719, "CUDA_ERROR_LAUNCH_FAILED"}, {802, "CUDA_ERROR_SYSTEM_NOT_READY"},
		{803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}, {999, "CUDA_ERROR_UNKNOWN"}};
	auto i = names.find(code);
	*name = i == names.end() ? nullptr : i->second;
	return *name ? OK : INVALID_VALUE;
}

EXPORT int cuGetErrorString(int code, const char **text)
{
	static thread_local std::string copy;
	*text = "played by the stand-in";
	if (code == ASSERT) {
		std::unique_lock<std::mutex> lock(world().m);
		copy = world().last_violation;
		*text = copy.c_str();
	}
	return OK;
}

} // namespace fakecuda
