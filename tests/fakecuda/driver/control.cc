// The one entry point that no driver has: tests set and ask things in text.
#include "world.h"

#include <cstdio>
#include <cstring>
#include <sstream>

namespace fakecuda {

// fresh forgets failures and violations, and sets what can be set back to its beginning. What the
// program holds stays.
static void fresh(World &w)
{
	w.devices = 1, w.version = 12040, w.capability = 80, w.memory = 4ull << 30, w.strict = true;
	w.hold = 0, w.host_pointer = true;
	w.fail_countdown = 0, w.chance_per_million = 0, w.calls = 0;
	w.seed = 1, w.delay_one_in = 16, w.delay_max_us = 60;
	w.launch_ns = w.product_ns = 1000;
	w.blas_version[0] = 12, w.blas_version[1] = 4, w.blas_version[2] = 5, w.blas_algorithms = 1;
	w.peak_device = w.used, w.peak_host = w.locked();
	w.violations.clear();
	w.streams_made = 0;
}

static bool set(World &w, const std::string &key, uint64_t value)
{
	if (key == "devices" && value <= devices_max)
		w.devices = int(value);
	else if (key == "version")
		w.version = int(value);
	else if (key == "capability")
		w.capability = int(value);
	else if (key == "memory")
		w.memory = value;
	else if (key == "strict")
		w.strict = value != 0;
	else if (key == "host_pointer")
		w.host_pointer = value != 0;
	else if (key == "hold")
		w.hold = value;
	else if (key == "launch_ns")
		w.launch_ns = value;
	else if (key == "product_ns")
		w.product_ns = value;
	else if (key == "cublas_major")
		w.blas_version[0] = int(value);
	else if (key == "cublas_algorithms")
		w.blas_algorithms = value;
	else
		return false;
	return true;
}

static bool answer(World &w, std::istringstream &in, std::string &out)
{
	std::string word, name;
	uint64_t a = 0, b = 0, c = 0;
	in >> word;
	if (word == "fresh") {
		fresh(w);
	} else if (word == "violations") {
		for (const std::string &v : w.violations)
			out += v + "\n";
	} else if (word == "live") {
		out = w.live();
	} else if (word == "peak") { // bytes of device memory, and of registered host memory, since fresh
		out = std::to_string(w.peak_device) + " " + std::to_string(w.peak_host);
	} else if (word == "calls") {
		out = std::to_string(w.calls);
	} else if (word == "set" && in >> name >> a) {
		return set(w, name, a);
	} else if (word == "delays" && in >> a >> b >> c) { // seed, one in, most microseconds
		w.seed = a, w.delay_one_in = b, w.delay_max_us = c;
	} else if (word == "fail" && in >> name >> a >> b) { // call or "any", which one, code; 0: none
		w.fail_name = name, w.fail_countdown = a, w.fail_code = int(b);
	} else if (word == "chance" && in >> a >> b) { // seed, failures in a million calls
		w.chance_state = a, w.chance_per_million = b;
	} else {
		return false;
	}
	return true;
}

EXPORT int fakecuda_control(const char *request, char *reply, size_t reply_bytes)
{
	World &w = world();
	std::unique_lock<std::mutex> lock(w.m);
	std::istringstream in(request);
	std::string out;
	if (!answer(w, in, out))
		return -1;
	w.changed.notify_all();
	if (reply_bytes)
		snprintf(reply, reply_bytes, "%s", out.c_str());
	return 0;
}

} // namespace fakecuda
